"""Where the autoencoder begins: principal components of the corpus, carried into latents and back by its first blocks.

A projection needs no training, and what comes after it starts from sound instead of from noise. Panning is one number
per patch: how much the side is like the middle. The side is then that number times the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sa3_training.clips import Crops
from stable_audio_3.networks.same import SAME, Block, ResamplingBlock, WeightNormConv

PATCHES = 5000
LEAST = 1e-2  # norm of a patch that counts
GAIN = 0.25  # from patches to tokens: a loud tone is then about four
SLOPE = 0.12  # of the norms: tokens pass them nearly unchanged
SMALL = 0.05  # of the usual size of what the other branches add
SHARP, REACH = 9.0, 10.0  # how decidedly the first blocks look at one place, and the bound of a query's values
PAN_GAIN, PAN_SHARE = 400.0, 0.25  # panning is a sign, whatever the level; it is as large as other latents
SIDE = 0.92  # of the middle: a little more than the corpus has in a panned sound, for what the norms take away


def principal(crops: Crops, patch: int, count: int, seed: int) -> Tensor:
    """(count, patch) of the middle, orthonormal; loud patches weigh more, but not by their energy."""
    draw = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for index in draw.integers(0, len(crops), PATCHES):
        crop = crops[int(index)]
        start = int(draw.integers(0, crop.shape[1] // patch)) * patch
        piece = crop[:, start : start + patch].astype(np.float32).mean(axis=0) / 32767
        norm = float(np.linalg.norm(piece))
        if norm > LEAST:
            rows.append(piece / norm**0.5)
    every = torch.from_numpy(np.stack(rows))
    found = torch.linalg.eigh(every.T @ every)[1].flip(1)[:, :count].T
    # The sign of a component is arbitrary: its largest value is positive.
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return (found * largest.sign()).contiguous()


@dataclass(frozen=True)
class Layout:
    """Which feature of a token is what, by how many features there are of each."""

    width: int
    latents: int
    stride: int

    @property
    def room(self) -> int:
        """Components of each patch that a latent holds, beside its panning."""
        return self.latents // self.stride - 1

    @property
    def middle(self) -> list[int]:
        return list(range(self.room))

    @property
    def side(self) -> list[int]:
        return list(range(self.room, 2 * self.room))

    @property
    def rest(self) -> list[int]:
        """Further components in patches, and the mark of a learned token."""
        return list(range(max(2 * self.room, self.latents), self.width - 1))

    @property
    def pan(self) -> int:
        return self.width - 1

    def latent(self, place: int) -> list[int]:
        """Where a latent keeps the components and the panning of one of its patches."""
        held = range(place * self.room, (place + 1) * self.room)
        return [*held, self.stride * self.room + place]

    @property
    def token(self) -> list[int]:
        return [*self.middle, self.pan]

    @property
    def components(self) -> int:
        return self.room + len(self.rest)


def layout_of(same: SAME) -> Layout:
    encoder = cast("ResamplingBlock", same.encoder.layers[0])
    return Layout(encoder.new_tokens.shape[2], same.bottleneck.bias.shape[1], encoder.stride)


@torch.no_grad()
def begin(same: SAME, components: Tensor) -> None:
    """Sets the weights so that encoding and decoding is a projection on the components, before any training."""
    encoder = cast("ResamplingBlock", same.encoder.layers[0])
    decoder = cast("ResamplingBlock", same.decoder.layers[3])
    form = layout_of(same)
    for half in (encoder, decoder):
        half.new_tokens.zero_()
        half.new_tokens[0, 0, form.rest] = 2.0 * torch.tensor([(-1.0) ** i for i in form.rest])
        for block in cast("list[Block]", list(half.transformers)):
            for norm in (block.pre_norm, block.ff_norm):
                norm.alpha.fill_(SLOPE)
                norm.gamma.fill_(1 / SLOPE)
            for branch in (block.self_attn.to_out, block.ff.ff[2]):
                branch.get_parameter("weight").mul_(SLOPE * SMALL)
    blocks = cast("list[Block]", [encoder.transformers[0], encoder.transformers[-1], decoder.transformers[0]])
    pairs = list(zip(form.side, form.middle, strict=True))
    _multiply(blocks[0], pairs, [form.pan] * form.room, PAN_GAIN)
    _multiply(blocks[2], [(a, form.pan) for a in form.middle], form.side, SIDE * SLOPE)
    # In a group an encoder's latent comes after its patches, a decoder's before them.
    strides = range(form.stride)
    scales = [1.0] * form.room
    reads = [Move(p - form.stride, form.token, form.latent(p), [*scales, PAN_SHARE]) for p in strides]
    writes = [Move(-1 - p, form.latent(p), form.token, [*scales, 1 / PAN_SHARE]) for p in strides]
    _carry(blocks[1], encoder.new_tokens[0, 0], reads)
    _carry(blocks[2], decoder.new_tokens[0, 0], writes)
    same.encoder.layers[2].get_parameter("weight").copy_(torch.eye(form.latents, form.width))
    same.decoder.layers[1].get_parameter("weight").copy_(torch.eye(form.width, form.latents))
    basis = torch.full((form.width, 2 * components.shape[1]), 1e-4)  # a direction must not be nothing
    half = components * 0.5**0.5
    basis[form.middle] = torch.cat((half[: form.room], half[: form.room]), dim=1)
    basis[form.side] = torch.cat((half[: form.room], -half[: form.room]), dim=1)
    basis[form.rest] = torch.cat((half[form.room :], half[form.room :]), dim=1)
    _set(encoder.mapping, GAIN * basis[:, :, None])
    _set(decoder.mapping, basis.T[:, :, None] / GAIN)
    # What marks the learned tokens as such, and their panning, is nothing to be heard.
    decoder.mapping.bias.copy_(-basis.T @ decoder.new_tokens[0, 0] / GAIN)


@dataclass(frozen=True)
class Move:
    """What a head copies: from how far, which features, to which, and how many times over."""

    distance: int
    source: Sequence[int]
    target: Sequence[int]
    scale: Sequence[float]


def _carry(block: Block, token: Tensor, moves: list[Move]) -> None:
    """The block's heads each look at one distance, and copy some of what is there to the learned tokens.

    A query is what the learned token makes it; every key is alike but for its place, which rotary positions turn.
    """
    attention = block.self_attn
    width, heads = len(token), attention.heads
    size = width // heads
    turned = block.rope.inv_freq.shape[0]  # the first value turns by one radian a token, with this one as its partner
    mark = block.pre_norm(token)
    attention.k_norm.beta[0] = SHARP
    attention.q_norm.gamma.fill_(REACH)
    attention.q_norm.alpha.fill_(1.0)
    query, key, value = attention.to_qkv.weight.view(3, heads, size, width)
    key.mul_(SLOPE * 0.1)
    out = attention.to_out.weight.view(width, heads, size)
    for head, move in enumerate(moves):
        query[head] = 0
        for row, wanted in ((0, math.cos(move.distance)), (turned, math.sin(move.distance))):
            query[head, row] = math.atanh(SHARP * wanted / REACH) * mark / mark.square().sum()
        value[head] = 0
        out[:, head] = 0
        for row, (source, target, scale) in enumerate(zip(move.source, move.target, move.scale, strict=True)):
            value[head, row, source] = 1
            out[target, head, row] = scale


def _multiply(block: Block, factors: list[tuple[int, int]], targets: Sequence[int], scale: float) -> None:
    """Adds scale * a * b to each target: a * silu(b) - a * silu(-b) is exactly a * b."""
    gate, back = block.ff.ff[0].get_submodule("proj"), block.ff.ff[2]
    weight, bias = gate.get_parameter("weight"), gate.get_parameter("bias")
    inner = weight.shape[0] // 2
    count = len(factors)
    weight[: 2 * count] = 0
    weight[inner : inner + 2 * count] = 0
    bias.zero_()
    out = back.get_parameter("weight")
    out[:, : 2 * count] = 0
    for index, ((a, b), target) in enumerate(zip(factors, targets, strict=True)):
        for unit, sign in ((index, 1.0), (count + index, -1.0)):
            weight[unit, a] = 1
            weight[inner + unit, b] = sign
            out[target, unit] = sign * scale


@torch.no_grad()
def balance(same: SAME, spread: Tensor) -> None:
    """Half way from the components' own spreads (latents, given) to equal ones; the decoder undoes it."""
    gain = (spread / spread.mean() + 1e-2).rsqrt()
    encode, decode = same.encoder.layers[2], same.decoder.layers[1]
    encode.get_parameter("weight").mul_(gain[:, None])
    encode.get_parameter("bias").mul_(gain)
    decode.get_parameter("weight").div_(gain)


def _set(convolution: WeightNormConv, weight: Tensor) -> None:
    convolution.weight_v.copy_(weight)
    convolution.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
    convolution.bias.zero_()
