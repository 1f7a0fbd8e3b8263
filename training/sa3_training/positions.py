"""Where the transformer begins: its first block tells every frame what time it is.

Rotary positions only say how far apart two tokens are, and the frames begin as noise: a network this small needs
thousands of steps to find out that it can read the time off its memory tokens. So it is told. Every head of the first
block asks the same of all frames, and the memory tokens answer by a few of the rotary frequencies, in three phases
each: what comes back is a different mixture of them at every frame. Training goes on from there.
"""

from __future__ import annotations

import math

import torch

from stable_audio_3.networks.dit import DiT

PHASES, FREQUENCIES = 3, 3  # of every head
QUESTION, ANSWER = 1.5, 1.0  # how much memory tokens are preferred, before their phase counts
LOUD = 5.0  # a memory token's own feature
VALUE = 0.2
REST = 0.1  # of the usual first weights, for what else a query may depend on


@torch.no_grad()
def begin(dit: DiT) -> None:
    net, attention = dit.transformer, dit.blocks[0].self_attn
    width, heads = net.project_in.weight.shape[0], attention.heads
    size, answers = width // heads, PHASES * FREQUENCIES
    # Features that are nothing in frames: one that asks, by the shift before the block, and one of each answer.
    asks, own = width - 1, [width - 2 - i for i in range(answers)]
    net.project_in.weight[[asks, *own]] = 0
    net.memory_tokens[:answers] = 0
    for token, feature in enumerate(own):
        net.memory_tokens[token, feature] = LOUD
    dit.blocks[0].to_scale_shift_gate[width + asks] = 1
    query, key, value = attention.to_qkv.weight.view(3, heads, size, width)
    query.mul_(REST)
    for part in (query, key, value):
        part[:, :, [asks, *own]] = 0
    turned = net.rotary_pos_emb.inv_freq
    for head in range(heads):
        query[head, -1, asks] = QUESTION
        for place in range(FREQUENCIES):
            pair = head + place * heads
            query[head, pair, asks] = 1
            for phase in range(PHASES):
                token = place * PHASES + phase
                angle = 2 * math.pi * phase / PHASES - float(turned[pair]) * token
                key[head, pair, own[token]] = math.cos(angle)
                key[head, pair + len(turned), own[token]] = math.sin(angle)
                key[head, -1, own[token]] = ANSWER
        value[head][:, own] = VALUE * torch.randn(size, answers)
