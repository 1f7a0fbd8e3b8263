"""Where the autoencoder begins: principal components of the corpus, carried into latents and back by its first blocks.

A projection needs no training, and what comes after it starts from sound instead of from noise. Panning is one number
per patch: whether the side is like the middle, like its opposite, or nothing. The side is then that number times the
middle. What makes this number is pinned: training, which sees mostly sounds in the centre, would wear it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sa3_training import synth, tones
from sa3_training.clips import Crops
from stable_audio_3.networks.same import SAME, Block, ResamplingBlock, WeightNormConv

PATCHES = 8000
LEAST = 1e-2  # norm of a patch that counts
EVEN = 0.75  # 1: every patch weighs the same; 0: by its energy
GAIN = 0.25  # from patches to tokens: a loud tone is then about four
SLOPE = 0.12  # of the norms: tokens pass them nearly unchanged
SMALL = 0.05  # of the usual size of what the other branches add
SHARP, REACH = 9.0, 10.0  # how decidedly the first blocks look at one place, and the bound of a query's values
PAN_GAIN, PAN_SHARE = 2000.0, 0.12  # panning is a sign, whatever the level; it is as large as other latents
MARK = 6.0  # of a learned token, by which it is known
PROBES_SEED = 11
SIDE = 0.92  # of the middle: a little more than the corpus has in a panned sound, for what the norms take away


def fundamentals(patch: int) -> Tensor:
    """(notes, patch): the fundamental of every note, each with a norm of one."""
    rows = [
        synth.sine(synth.cycles(synth.hertz(tones.tuned(midi)), patch))
        for midi in range(tones.LOWEST, tones.HIGHEST + 1)
    ]
    every = torch.from_numpy(np.stack(rows))
    return every / every.norm(dim=1, keepdim=True)


def principal(crops: Crops, patch: int, count: int, seed: int, *, room: int | None = None) -> Tensor:
    """(count, patch) of the middle, orthonormal; a faint hat weighs nearly as much as a loud tone.

    No note is rare enough to be left out of the first `room`.
    """
    draw = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for index in draw.integers(0, len(crops), PATCHES):
        crop = crops[int(index)]
        start = int(draw.integers(0, crop.shape[1] // patch)) * patch
        piece = crop[:, start : start + patch].astype(np.float32).mean(axis=0) / 32767
        norm = float(np.linalg.norm(piece))
        if norm > LEAST:
            rows.append(piece / norm**EVEN)
    every = torch.from_numpy(np.stack(rows))
    scatter = every.T @ every
    notes = fundamentals(patch)
    least = torch.linalg.eigvalsh(scatter)[-(room or count)]
    found = torch.linalg.eigh(scatter + least * notes.T @ notes)[1].flip(1)[:, :count].T
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
        """Further components of the middle in a decoder's patches, finer than what a latent holds."""
        return list(range(2 * self.room, 2 * self.room + self._further))

    @property
    def rest_side(self) -> list[int]:
        """The same of the side."""
        return list(range(2 * self.room + self._further, 2 * self.room + 2 * self._further))

    @property
    def probes(self) -> list[int]:
        """Where an encoder's patches hold what panning is found with, as many as `side` has."""
        return list(range(2 * self.room, min(3 * self.room, self.mark)))

    @property
    def _further(self) -> int:
        return (self.width - 2 - 2 * self.room) // 2

    @property
    def mark(self) -> int:
        return self.width - 2

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
        return self.room + self._further


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
        half.new_tokens[0, 0, form.mark] = MARK
        for block in _blocks(half):
            for norm in (block.pre_norm, block.ff_norm):
                norm.alpha.fill_(SLOPE)
                norm.gamma.fill_(1 / SLOPE)
            for branch in (block.self_attn.to_out, block.ff.ff[2]):
                branch.get_parameter("weight").mul_(SLOPE * SMALL)
                branch.get_parameter("weight")[[form.pan, form.mark]] = 0
    first, last = _blocks(encoder)[0], _blocks(encoder)[-1]
    for block in (first, last):  # nothing comes between the patches and what they are panned by
        block.self_attn.to_out.weight.zero_()
    probed = list(zip(form.probes, form.side, strict=False))
    _multiply(first, probed, [form.pan] * len(probed), PAN_GAIN)
    opening, closing = _blocks(decoder)[0], _blocks(decoder)[-1]
    _multiply(opening, [(a, form.pan) for a in form.middle], form.side, SIDE * SLOPE)
    _multiply(closing, [(a, form.pan) for a in form.rest], form.rest_side, SIDE * SLOPE)
    # In a group an encoder's latent comes after its patches, a decoder's before them.
    strides = range(form.stride)
    scales = [1.0] * form.room
    reads = [Move(p - form.stride, form.token, form.latent(p), [*scales, PAN_SHARE]) for p in strides]
    writes = [Move(-1 - p, form.latent(p), form.token, [*scales, 1 / PAN_SHARE]) for p in strides]
    _carry(last, encoder.new_tokens[0, 0], reads)
    _carry(opening, decoder.new_tokens[0, 0], writes)
    for place in strides:
        last.ff.ff[2].get_parameter("weight")[form.latent(place)[-1]] = 0
    same.encoder.layers[2].get_parameter("weight").copy_(torch.eye(form.latents, form.width))
    same.decoder.layers[1].get_parameter("weight").copy_(torch.eye(form.width, form.latents))
    patch = components.shape[1]
    half, further = components[: form.room] * 0.5**0.5, components[form.room :] * 0.5**0.5
    basis = torch.full((form.width, 2 * patch), 1e-4)  # a direction must not be nothing
    basis[form.middle] = torch.cat((half, half), dim=1)
    basis[form.side] = torch.cat((half, -half), dim=1)
    basis[form.rest] = torch.cat((further, further), dim=1)
    basis[form.rest_side] = torch.cat((further, -further), dim=1)
    _set(decoder.mapping, basis.T[:, :, None] / GAIN)
    # What marks the learned tokens as such, and their panning, is nothing to be heard.
    decoder.mapping.bias.copy_(-basis.T @ decoder.new_tokens[0, 0] / GAIN)
    # In any direction, also those the components leave out, a panned side is a multiple of the middle.
    draw = torch.Generator().manual_seed(PROBES_SEED)
    probes = torch.randn(len(probed), patch, generator=draw) * (0.5 / len(probed)) ** 0.5
    basis[form.probes] = torch.cat((probes, probes), dim=1)
    basis[form.side] = 0.0
    basis[form.side[: len(probed)]] = torch.cat((probes, -probes), dim=1)
    basis[form.side[len(probed) :]] = 1e-4
    _set(encoder.mapping, GAIN * basis[:, :, None])


def _blocks(half: ResamplingBlock) -> list[Block]:
    return cast("list[Block]", list(half.transformers))


@dataclass(frozen=True)
class Pin:
    """Entries of a parameter that training leaves as they are."""

    parameter: nn.Parameter
    where: Tensor
    value: Tensor

    @torch.no_grad()
    def hold(self) -> None:
        self.parameter[self.where] = self.value

    def still(self) -> None:
        """Takes its part out of the gradient, which it could dwarf."""
        if self.parameter.grad is not None:
            self.parameter.grad[self.where] = 0


def freeze(same: SAME) -> None:
    """The parts of the encoder that are not trained: all that could disturb the panning and is no matrix's entry."""
    encoder = cast("ResamplingBlock", same.encoder.layers[0])
    encoder.requires_grad_(False)
    same.bottleneck.requires_grad_(False)
    for block in _blocks(encoder):
        for layer in (block.ff.ff[0].get_submodule("proj"), block.ff.ff[2]):
            layer.requires_grad_(True)


def pins(same: SAME) -> list[Pin]:
    """What makes panning of patches, and patches of panning, as it is now."""
    encoder = cast("ResamplingBlock", same.encoder.layers[0])
    decoder = cast("ResamplingBlock", same.decoder.layers[3])
    form = layout_of(same)
    found: list[Pin] = []

    def pin(parameter: Tensor, rows: Sequence[int]) -> None:
        where = torch.tensor(list(rows), dtype=torch.long, device=parameter.device)
        found.append(Pin(cast("nn.Parameter", parameter), where, parameter.detach()[where].clone()))

    for half, factors in ((encoder, (len(form.probes), 0)), (decoder, (len(form.middle), len(form.rest)))):
        for block, count in zip((_blocks(half)[0], _blocks(half)[-1]), factors, strict=True):
            gate = block.ff.ff[0].get_submodule("proj")
            inner = gate.get_parameter("weight").shape[0] // 2
            units = [*range(2 * count), *range(inner, inner + 2 * count)]
            pin(gate.get_parameter("weight"), units)
            pin(gate.get_parameter("bias"), units)
            for branch in (block.ff.ff[2], block.self_attn.to_out):
                pin(branch.get_parameter("weight"), (form.pan, form.mark))
            pin(block.ff.ff[2].get_parameter("bias"), (form.pan, form.mark))
    pan = [form.latent(place)[-1] for place in range(form.stride)]
    out = _blocks(encoder)[-1].ff.ff[2]
    for layer in (out, same.encoder.layers[2]):
        pin(layer.get_parameter("weight"), pan)
        pin(layer.get_parameter("bias"), pan)
    return found


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
    """From the components' own spreads (latents, given) to equal ones; the decoder undoes it."""
    gain = 1 / (spread / spread.mean() + 1e-2)
    encode, decode = same.encoder.layers[2], same.decoder.layers[1]
    encode.get_parameter("weight").mul_(gain[:, None])
    encode.get_parameter("bias").mul_(gain)
    decode.get_parameter("weight").div_(gain)


def _set(convolution: WeightNormConv, weight: Tensor) -> None:
    convolution.weight_v.copy_(weight)
    convolution.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
    convolution.bias.zero_()
