"""Where the autoencoder begins: principal components of patches, carried into latents and back by its first blocks."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sa3_training.clips import Crops
from stable_audio_3.networks.same import SAME, Block, ResamplingBlock, WeightNormConv

PATCHES = 4000
LEAST = 1e-2  # norm of a patch that counts
GAIN = 0.25  # from patches to tokens: a loud tone is then about four
SLOPE = 0.12  # of the first norms: tokens pass them nearly unchanged
SMALL = 0.05  # of the usual size of what the other branches add
SHARP, REACH = 9.0, 10.0  # how decidedly the first blocks look at one place, and the bound of a query's values


def principal(crops: Crops, patch: int, count: int, seed: int) -> Tensor:
    """(count, 2 * patch): orthonormal; loud patches weigh more, but not by their energy."""
    draw = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for index in draw.integers(0, len(crops), PATCHES):
        crop = crops[int(index)]
        start = int(draw.integers(0, crop.shape[1] // patch)) * patch
        piece = crop[:, start : start + patch].astype(np.float32) / 32767
        norm = float(np.linalg.norm(piece))
        if norm > LEAST:
            # The other way round as well: left is no more likely than right.
            rows += [piece.ravel() / norm**0.5, piece[::-1].ravel() / norm**0.5]
    every = torch.from_numpy(np.stack(rows))
    values, vectors = torch.linalg.eigh(every.T @ every) if len(every) > every.shape[1] else _by_rows(every)
    found = vectors.flip(1)[:, :count].T
    assert float(values[-1]) > 0 and len(found) == count
    # The sign of a component is arbitrary: its largest value is positive.
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return (found * largest.sign()).contiguous()


def _by_rows(every: Tensor) -> tuple[Tensor, Tensor]:
    values, sides = torch.linalg.eigh(every @ every.T)
    return values, nn.functional.normalize(every.T @ sides, dim=0)


@torch.no_grad()
def begin(same: SAME, components: Tensor) -> None:
    """Sets the weights so that encoding and decoding is a projection on the components, before any training.

    A latent is that many of the first components of every patch it covers as it has room for.
    """
    encoder = cast("ResamplingBlock", same.encoder.layers[0])
    decoder = cast("ResamplingBlock", same.decoder.layers[3])
    stride, width = encoder.stride, encoder.new_tokens.shape[2]
    latents = len(same.bottleneck.bias[0])
    room = latents // stride
    for half in (encoder, decoder):
        half.new_tokens.zero_()
        spare = half.new_tokens[0, 0, latents:]
        spare.copy_(2.0 * torch.tensor([(-1.0) ** i for i in range(len(spare))]))
        for index, block in enumerate(cast("list[Block]", list(half.transformers))):
            block.pre_norm.alpha.fill_(2 * SLOPE)
            block.ff_norm.alpha.fill_(2 * SLOPE)
            for branch in (block.self_attn.to_out, block.ff.ff[2]):
                branch.get_parameter("weight").mul_(SMALL if index or branch is block.ff.ff[2] else 1.0)
    # In a group an encoder's latent comes after its patches, a decoder's before them.
    _carry(encoder, [(place - stride, slice(0, room), _part(place, room)) for place in range(stride)])
    _carry(decoder, [(-1 - place, _part(place, room), slice(0, room)) for place in range(stride)])
    for linear, shape in ((same.encoder.layers[2], (latents, width)), (same.decoder.layers[1], (width, latents))):
        linear.get_parameter("weight").copy_(torch.eye(*shape))
    _set(encoder.mapping, GAIN * components[:, :, None])
    _set(decoder.mapping, components.T[:, :, None] / GAIN)
    # What marks the learned tokens as such is nothing to be heard.
    decoder.mapping.bias.copy_(-components.T @ decoder.new_tokens[0, 0] / GAIN)


@torch.no_grad()
def balance(same: SAME, spread: Tensor) -> None:
    """Half way from the components' own spreads (latents, given) to equal ones; the decoder undoes it."""
    gain = (spread / spread.mean() + 1e-2).rsqrt()
    encode, decode = same.encoder.layers[2], same.decoder.layers[1]
    encode.get_parameter("weight").mul_(gain[:, None])
    encode.get_parameter("bias").mul_(gain)
    decode.get_parameter("weight").div_(gain)


def _part(place: int, room: int) -> slice:
    return slice(place * room, (place + 1) * room)


def _carry(half: ResamplingBlock, moves: list[tuple[int, slice, slice]]) -> None:
    """The first block's heads each look at one distance, and copy some of what is there: (distance, from, to).

    A query is what the learned token makes it; every key is alike but for its place, which rotary positions turn.
    """
    block = cast("Block", half.transformers[0])
    attention, norm = block.self_attn, block.pre_norm
    norm.alpha.fill_(SLOPE)
    norm.gamma.fill_(1 / SLOPE)
    width = half.new_tokens.shape[2]
    size = width // attention.heads
    turned = block.rope.inv_freq.shape[0]  # the first of these turns by one radian a token, and its partner
    token = norm(half.new_tokens[0, 0])
    attention.k_norm.beta[0] = SHARP
    attention.q_norm.gamma.fill_(REACH)
    attention.q_norm.alpha.fill_(1.0)
    query, key, value = attention.to_qkv.weight[: 3 * width].view(3, attention.heads, size, width)
    key.mul_(0.1)
    for head, (distance, source, target) in enumerate(moves):
        query[head] = 0
        for row, wanted in ((0, math.cos(distance)), (turned, math.sin(distance))):
            query[head, row] = math.atanh(SHARP * wanted / REACH) * token / token.square().sum()
        count = source.stop - source.start
        value[head] = 0
        value[head, :count, source] = torch.eye(count)
        columns = slice(head * size, (head + 1) * size)
        attention.to_out.weight[:, columns] = 0
        attention.to_out.weight[target, head * size : head * size + count] = torch.eye(count)
    for head in range(len(moves), attention.heads):
        attention.to_out.weight[:, head * size : (head + 1) * size] *= SMALL


def _set(convolution: WeightNormConv, weight: Tensor) -> None:
    convolution.weight_v.copy_(weight)
    convolution.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
    convolution.bias.zero_()
