"""How long things are: samples and latents of a request, which frames are sound, which regions are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa3_engines.config import ModelConfig

Array = np.ndarray


def frames(config: ModelConfig, seconds: Sequence[float], padding_seconds: float, sample_size: int) -> int:
    """Latents to make: the longest duration and its padding, rounded up to whole chunks, within sample_size."""
    samples = int((max(seconds) + padding_seconds) * config.sample_rate)
    for multiple in (config.ratio, config.ratio * config.align_latents):
        samples = -(-samples // multiple) * multiple
    return min(samples, sample_size) // config.ratio


def effective(config: ModelConfig, seconds: Sequence[float]) -> Array:
    """Latents of sound per item, without padding: what a schedule may depend on."""
    return np.array([-(-int(s * config.sample_rate) // config.ratio) for s in seconds])


def valid(config: ModelConfig, seconds: Sequence[float], padding_seconds: float, total: int) -> Array:
    """(items, total): true where an item has sound or its padding, false where only the batch is longer."""
    counts = effective(config, seconds) + int(padding_seconds * config.sample_rate / config.ratio)
    return np.arange(total)[None] < np.minimum(counts, total)[:, None]


def kept_mask(
    config: ModelConfig, regions: Sequence[tuple[float, float]], seconds: float, total: int, mask: Array | None = None
) -> Array:
    """(1, 1, total) latents: 1 where the given sound is kept, 0 where it is made anew.

    regions are in seconds; mask, instead of them, is per sample. What lies beyond the duration is always made anew.
    """
    rate, samples = config.sample_rate, total * config.ratio
    keep = np.ones(samples, np.float32)
    if mask is not None:
        flat = np.asarray(mask, np.float32).reshape(-1)[:samples]
        keep[: len(flat)] = flat
    for start, end in regions:
        keep[min(int(start * rate), samples) : min(int(end * rate), samples)] = 0
    keep[int(seconds * rate) :] = 0
    return keep[:: config.ratio][None, None]
