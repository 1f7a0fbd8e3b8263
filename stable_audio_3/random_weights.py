"""Seeded random weights for any architecture: speed and memory do not depend on values, so they can be measured.

Every tensor is non-degenerate and scaled so that signals keep their size through the layers. They depend on the
tensor's name, shape and the seed alone, whatever the order they are asked for.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from sa3_engines import tables


def random_tensor(key: str, like: Tensor, seed: int) -> Tensor:
    """key is the tensor's name in a full checkpoint; `like` gives the shape."""
    shape = tuple(like.shape)
    name = key.rpartition(".")[2]
    if name == "inv_freq":
        return torch.from_numpy(tables.rope_frequencies(2 * shape[0]).copy())
    draw = np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))
    # Evenly spread: five times as quick to draw as a bell curve, and a billion of them are needed.
    values = draw.random(shape, dtype=np.float32)
    mean, spread = (0.0, 1.0) if key.endswith("embed_tokens.weight") else _distribution(key, name, shape)
    width = spread * 12**0.5
    values *= np.float32(width)
    values += np.float32(mean - width / 2)
    made = torch.from_numpy(values)
    return made.to(torch.bfloat16) if key.endswith("embed_tokens.weight") else made  # as published: half the memory


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
        return (0.2, 0.02) if ".decoder." in key else (0.5, 0.05)  # a level that is heard and does not clip
    if name in ("new_tokens", "memory_tokens", "padding_embedding"):
        return 0.0, 0.5
    if name == "weight" and "norm" in key:
        return 0.0, 0.1
    if len(shape) < 2:
        return 0.0, 0.05  # biases, modulation
    spread = max(1.0, float(np.prod(shape[1:]))) ** -0.5  # one released tensor has no elements
    return 0.0, spread * next((gain for end, gain in _GAINS.items() if key.endswith(end)), 1.0)


# What is added to a residual stream again and again is small, so that the stream keeps its size over any depth.
_GAINS = {
    "self_attn.to_out.weight": 0.5,
    "cross_attn.to_out.weight": 0.5,
    "ff.ff.2.weight": 0.4,
    "to_local_embed.2.weight": 0.2,
    "transformer.project_out.weight": 0.5,
}
