"""Seeded random weights for any architecture: speed and memory do not depend on values, so they can be measured.

Every tensor is non-degenerate and scaled so that signals keep their size through the layers. They depend on the
tensor's name, shape and the seed alone, whatever the order they are asked for.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from sa3_engines import tables
from torch import Tensor


def random_tensor(key: str, like: Tensor, seed: int) -> Tensor:
    """key is the tensor's name in a full checkpoint; `like` gives the shape."""
    shape = tuple(like.shape)
    name = key.rpartition(".")[2]
    if name == "inv_freq":
        return torch.from_numpy(tables.rope_frequencies(2 * shape[0]).copy())
    draw = np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))
    values = draw.standard_normal(shape, dtype=np.float32)
    if key.endswith("embed_tokens.weight"):
        return torch.from_numpy(values).to(torch.bfloat16)  # as published; half the memory
    mean, spread = _distribution(key, name, shape)
    values *= np.float32(spread)
    values += np.float32(mean)
    return torch.from_numpy(values)


def _distribution(key: str, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if name == "gamma":
        return 1.0, 0.1
    if name == "alpha":
        return 0.7, 0.05
    if name == "running_std":
        return 1.0, 0.02
    if name == "scaling_factor":
        return 1.0, 0.05
    if name == "weight_g":
        return 0.5, 0.05
    if name in ("new_tokens", "memory_tokens", "padding_embedding"):
        return 0.0, 0.5
    if name == "weight" and "norm" in key:
        return 0.0, 0.1
    if len(shape) < 2:
        return 0.0, 0.05  # biases, modulation
    return 0.0, max(1.0, float(np.prod(shape[1:]))) ** -0.5  # one released tensor has no elements
