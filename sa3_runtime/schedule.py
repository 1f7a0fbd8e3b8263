"""Noise levels of the sampling steps: a straight line from sigma_max to 0, shifted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np

from sa3_engines.errors import InvalidRequest

Array = np.ndarray
Shift = Mapping[str, Any]
F = np.float32

# What released models sample with: they configure nothing, and this is what upstream then takes.
DEFAULT: Shift = {"type": "logsnr", "rate": 0.0, "anchor_logsnr": -6.2, "logsnr_end": 2.0}


def build(steps: int, sigma_max: float, shift: Shift | None, lengths: Array) -> Array:
    """(items, steps + 1) levels, one row per effective length (latents of sound, without padding).

    With sigma_max below 1 only the first level is set to it; the rest stay shifted as they are, as in the reference.
    """
    line = _linspace(F(sigma_max), steps)
    levels = shifted(np.broadcast_to(line, (len(lengths), steps + 1)), shift, lengths)
    levels[:, 0] = F(sigma_max)
    return levels


def _linspace(start: np.float32, steps: int) -> Array:
    # From both ends and rounded once per level, as torch does.
    step = (F(0) - start) / F(steps)
    index = np.arange(steps + 1)
    line = np.where(
        index < (steps + 1) // 2, np.float64(start) + np.float64(step) * index, -step * F(1.0) * (steps - index)
    )
    return line.astype(np.float32)


def _exp(x: Array) -> Array:
    """Rounded once. A level goes on into features whose angles reach 60,000 rad: its last bit shows in the sound."""
    return np.exp(x.astype(np.float64)).astype(np.float32)


def _log(x: Array) -> Array:
    return np.log(x.astype(np.float64)).astype(np.float32)


def shifted(t: Array, shift: Shift | None, lengths: Array) -> Array:
    """t (items, levels); lengths (items,)."""
    options = dict(DEFAULT if shift is None else shift)
    kind = options.pop("type", "full")
    if kind not in SHIFTS:
        raise InvalidRequest(f"no distribution shift {kind!r}; choose from {', '.join(SHIFTS)}")
    known = list(signature(SHIFTS[kind]).parameters)[2:]
    if unknown := sorted(set(options) - set(known)):
        raise InvalidRequest(
            f"distribution shift {kind} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    length = np.maximum(lengths, 1).astype(np.float32)[:, None]
    try:
        with np.errstate(all="ignore"):  # the caller looks at what comes out
            return SHIFTS[kind](t.astype(np.float32), length, **options)
    except (TypeError, ValueError) as e:
        raise InvalidRequest(f"distribution shift {kind}: {e}") from e


def _none(t: Array, length: Array) -> Array:
    return t.copy()


def _logsnr(
    t: Array,
    length: Array,
    anchor_length: float = 2000,
    anchor_logsnr: float = -6.2,
    rate: float = 1.0,
    logsnr_end: float = 2.0,
) -> Array:
    start = F(anchor_logsnr) - F(rate) * np.log2((length / F(anchor_length)).astype(np.float64)).astype(np.float32)
    logsnr = F(logsnr_end) - t * (F(logsnr_end) - start)
    out = F(1) / (F(1) + _exp(logsnr))
    return np.where(t <= 0, F(0), np.where(t >= 1, F(1), out))


def _full(
    t: Array,
    length: Array,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    min_length: float = 256,
    max_length: float = 4096,
    use_sine: bool = False,
) -> Array:
    inside = np.clip(length, F(min_length), F(max_length))
    mu = -(F(base_shift) + F(max_shift - base_shift) * (inside - F(min_length)) / F(max_length - min_length))
    pull = _exp(mu)
    with np.errstate(divide="ignore"):
        out = F(1) - pull / (pull + (F(1) / (F(1) - t) - F(1)))
    return np.sin((out * F(np.pi) / F(2)).astype(np.float64)).astype(np.float32) if use_sine else out


def _flux(
    t: Array,
    length: Array,
    min_length: float = 256,
    max_length: float = 4096,
    alpha_min: float = 1.0,
    alpha_max: float = 1.0,
) -> Array:
    inside = np.clip(length, F(min_length), F(max_length))
    low, high = np.log(min_length), np.log(max_length)
    part = (_log(inside) - F(low)) / F(high - low) if high > low else np.zeros_like(inside)
    first, last = np.log(alpha_min), np.log(alpha_max)
    alpha = _exp(F(first) + part * F(last - first))
    return alpha * t / (F(1) + (alpha - F(1)) * t)


SHIFTS: Mapping[str, Callable[..., Array]] = {"none": _none, "logsnr": _logsnr, "flux": _flux, "full": _full}
