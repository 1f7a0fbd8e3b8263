"""Where random numbers come from: torch's CPU generator in numpy, so a seed means the same noise on every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]


class Noise(Protocol):
    """Standard normal draws, batch first. Roles name what a draw is for: init, step, bottleneck, mask_encoder,
    mask_decoder."""

    def draw(self, role: str, shape: Shape) -> Array: ...


class TorchGenerator:
    """mt19937 and the two ways torch makes normals of it: one stream, in the order the draws are asked for."""

    def __init__(self, seed: int) -> None:
        # RandomState seeds as torch does (init_genrand); its bit stream is then read raw.
        self._bits: Any = np.random.MT19937()
        self._bits.state = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)
        self._kept: float | None = None

    def draw(self, role: str, shape: Shape) -> Array:
        return self.normal(shape)

    def normal(self, shape: Shape) -> Array:
        size = math.prod(shape)
        values = self._blocks(size) if size >= 16 else self._singles(size)
        return values.reshape(shape)

    def _uniform(self, count: int) -> Array:
        words = self._bits.random_raw(count)
        return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _blocks(self, size: int) -> Array:
        data = self._uniform(size)
        whole = size - size % 16
        data[:whole] = _box_muller(data[:whole])
        if whole != size:
            # What is left over is covered by one more block that ends at the end.
            data[-16:] = _box_muller(self._uniform(16))
        return data

    def _singles(self, size: int) -> Array:
        out = np.empty(size, np.float32)
        for index in range(size):
            if self._kept is not None:
                out[index], self._kept = self._kept, None
                continue
            words = [int(word) for word in self._bits.random_raw(4)]
            u1, u2 = (((words[i] << 32 | words[i + 1]) & (2**53 - 1)) * 2.0**-53 for i in (0, 2))
            radius = math.sqrt(-2 * math.log1p(-u2))
            out[index] = radius * math.cos(2 * math.pi * u1)
            self._kept = radius * math.sin(2 * math.pi * u1)
        return out


def _box_muller(uniform: Array) -> Array:
    pairs = uniform.reshape(-1, 2, 8)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - pairs[:, 0]))
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)


class PerItem:
    """One stream per batch item, so that an item gets what it would get alone."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [TorchGenerator(seed) for seed in seeds]

    def draw(self, role: str, shape: Shape) -> Array:
        if shape[0] != len(self._streams):  # drawn once for the whole batch, by its first item
            return self._streams[0].normal(shape)
        return np.concatenate([stream.normal((1, *shape[1:])) for stream in self._streams])
