"""Weights as small whole numbers and a scale for every group of columns: symmetric, in numpy.

A matrix is (rows out, columns in), and a group is a run of columns of one row that shares a scale; None means the whole
row. Where the columns do not divide into groups, the last group is shorter: its scale is as good as any other, and a
format that stores whole groups fills it up with zeros, which change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sa3_engines import processor

Array = np.ndarray
# A share of the largest weight that the outermost level stands for. At eight bits clipping gains nothing; at four it
# trades a few clipped weights for finer steps between all others.
CLIPS8 = (1.0,)
CLIPS4 = (1.0, 1.06, 0.94, 0.87)
SCALE = ".scale"  # after a weight's name: the name of its scales
_AT_ONCE = 1 << 17  # weights: what a core's cache holds, with its temporaries
_TINY = np.float32(1e-30)  # the scale of a group of zeros: anything but 0


def int8(weight: Array, group: int | None = None, *, clips: Sequence[float] = CLIPS8) -> tuple[Array, Array]:
    """Levels from -127 to 127 (rows, columns), and scales (rows, groups) in fp32: weight is about level * scale."""

    def largest(groups: Array) -> Array:
        return np.maximum(groups.max(axis=2), -groups.min(axis=2)) / np.float32(127)

    return _quantise(weight, group, clips, largest, (-127, 127))


def int4(weight: Array, group: int | None = 32, *, clips: Sequence[float] = CLIPS4) -> tuple[Array, Array]:
    """Levels from -8 to 7, one to a byte. Scales may be negative, so that -8 falls on the larger end of a group."""

    def largest(groups: Array) -> Array:
        high, low = groups.max(axis=2), groups.min(axis=2)
        return np.where(high > -low, high, low) / np.float32(-8)

    return _quantise(weight, group, clips, largest, (-8, 7))


def dequantise(levels: Array, scale: Array, group: int | None = None) -> Array:
    columns = levels.shape[1]
    return levels * np.repeat(scale, group or columns, axis=1)[:, :columns]


def grouped(levels: Array, group: int | None = None) -> Array:
    """(rows, groups, group), the last group filled up with zeros."""
    rows, columns = levels.shape
    size = group or columns
    missing = -columns % size  # a row shorter than one group is filled up too
    return (np.pad(levels, ((0, 0), (0, missing))) if missing else levels).reshape(rows, -1, size)


def pack(levels: Array) -> Array:
    """Levels -8 to 7 as unsigned halves of bytes, 8 for zero, the first of a pair low; the last axis is halved."""
    halves = (levels + 8).astype(np.uint8)
    return halves[..., ::2] | (halves[..., 1::2] << 4)


def unpack(packed: Array) -> Array:
    halves = np.stack((packed & 15, packed >> 4), axis=-1).astype(np.int8) - np.int8(8)
    return halves.reshape(*packed.shape[:-1], -1)


@dataclass(frozen=True)
class Blocks:
    """How ONNX Runtime's MatMulNBits wants a weight: unsigned levels (rows, groups, bytes of a group), and scales."""

    bits: int
    group: int

    @staticmethod
    def parse(text: str) -> Blocks:
        bits, _, group = text.partition("/")
        return Blocks(int(bits), int(group))

    def __str__(self) -> str:
        return f"{self.bits}/{self.group}"

    def shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        return rows, -(-columns // self.group), self.group * self.bits // 8

    def store(self, weight: Array) -> tuple[Array, Array]:
        if self.bits == 4:
            levels, scale = int4(weight, self.group)
            return pack(grouped(levels, self.group)), scale
        levels, scale = int8(weight, self.group)
        # The operator takes 128 for zero. Adding 128 to a byte is turning its highest bit over.
        return grouped(levels, self.group).view(np.uint8) ^ np.uint8(128), scale

    def restore(self, stored: Array, scale: Array, columns: int) -> Array:
        """The weight (rows, columns) in fp32, as the operator understands it."""
        levels = unpack(stored) if self.bits == 4 else (stored ^ np.uint8(128)).view(np.int8)
        return dequantise(levels.reshape(len(levels), -1)[:, :columns], scale, self.group)


def _quantise(
    weight: Array,
    group: int | None,
    clips: Sequence[float],
    largest: Callable[[Array], Array],
    levels: tuple[int, int],
) -> tuple[Array, Array]:
    rows, columns = weight.shape
    size = group or columns
    out, scale = np.empty((rows, columns), np.int8), np.empty((rows, -(-columns // size)), np.float32)
    step = max(1, _AT_ONCE // columns)

    def run(first: int) -> None:
        part = slice(first, first + step)
        groups = grouped(np.asarray(weight[part], np.float32), size)
        found, scale[part] = _best(groups, [largest(groups) * np.float32(clip) for clip in clips], levels)
        out[part] = found.reshape(len(groups), -1)[:, :columns]

    starts = range(0, rows, step)
    if len(starts) < 4:
        for first in starts:
            run(first)
    else:
        with ThreadPoolExecutor(processor.cores()) as pool:
            list(pool.map(run, starts))
    return out, scale


def _best(groups: Array, scales: Sequence[Array], levels: tuple[int, int]) -> tuple[Array, Array]:
    """The levels and scales that leave the least squared error in each group."""
    best = _levels(groups, scales[0], levels)
    if len(scales) == 1:
        return best, scales[0]
    scale, least = scales[0].copy(), _error(groups, best, scales[0])
    for tried in scales[1:]:
        found = _levels(groups, tried, levels)
        error = _error(groups, found, tried)
        better = error < least
        best[better], scale[better], least[better] = found[better], tried[better], error[better]
    return best, scale


def _levels(groups: Array, scale: Array, levels: tuple[int, int]) -> Array:
    inverse = np.float32(1) / np.where(scale == 0, _TINY, scale)
    found = groups * inverse[..., None]
    np.rint(found, out=found)
    return np.clip(found, *levels, out=found)


def _error(groups: Array, found: Array, scale: Array) -> Array:
    left = found * scale[..., None]
    left -= groups
    with np.errstate(over="ignore"):  # of very large weights: no way of rounding is then better than the first
        return np.einsum("rgk,rgk->rg", left, left)
