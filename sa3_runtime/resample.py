"""Changes the sample rate: the reference's filter where latents depend on it, soxr where only ears do."""

from collections.abc import Callable
from math import ceil, gcd
from typing import Literal

import numpy as np
import soxr

from sa3_engines.errors import InvalidRequest

Method = Literal["exact", "fast"]

ZEROS = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99
PHASES = 64  # output phases per matrix product: few enough that most of its columns are inside the window
BLOCK = 1 << 21  # input values gathered at a time: 8 MiB, whatever the length


def resample(samples: np.ndarray, from_rate: int, to_rate: int, method: Method = "exact") -> np.ndarray:
    methods: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"exact": exact, "fast": fast}
    if method not in methods:
        raise InvalidRequest(f"unknown resampling method {method!r}; choose from {', '.join(methods)}")
    return methods[method](samples, from_rate, to_rate)


def exact(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """torchaudio's Resample with its defaults, (channels, n) to (channels, ceil(n * to / from)).

    Output t is a windowed sinc around input t * old / new. Only the taps inside the window are computed, in groups of
    phases, so that rates without a common divisor need no table of old * new taps.
    """
    old, new = _reduced(from_rate, to_rate)
    channels, length = samples.shape
    if old == new or length == 0:
        return samples.astype(np.float32, copy=False)
    out_length = -(-new * length // old)
    base = min(old, new) * ROLLOFF
    reach = ceil(ZEROS * old / base)
    rows = -(-out_length // new)
    padded = np.zeros((channels, (rows + 1) * old + 2 * reach + 2), np.float32)
    kept = min(length, padded.shape[1] - reach)
    padded[:, reach : reach + kept] = samples[:, :kept]
    out = np.empty((channels, rows, new), np.float32)
    for first in range(0, min(new, out_length), PHASES):
        phases = np.arange(first, min(first + PHASES, new))
        start = first * old // new - reach
        offsets = np.arange(start, int(phases[-1]) * old // new + reach + 2)
        taps = _taps(offsets[:, None] / old - phases[None, :] / new, base, base / old)
        windows = np.lib.stride_tricks.sliding_window_view(padded[:, start + reach :], len(offsets), axis=1)[:, ::old]
        step = max(1, BLOCK // len(offsets))
        for row in range(0, rows, step):
            block = slice(row, min(row + step, rows))
            for channel in range(channels):
                # Contiguous, because numpy multiplies overlapping rows without BLAS.
                frames = np.ascontiguousarray(windows[channel, block])
                out[channel, block, first : first + len(phases)] = frames @ taps
    return np.ascontiguousarray(out.reshape(channels, -1)[:, :out_length])


def fast(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """soxr at its very high quality; as long as `exact` makes it."""
    old, new = _reduced(from_rate, to_rate)
    channels, length = samples.shape
    if old == new or length == 0:
        return samples.astype(np.float32, copy=False)
    got = soxr.resample(np.ascontiguousarray(samples.T, np.float32), from_rate, to_rate, quality="VHQ").T
    out = np.zeros((channels, -(-new * length // old)), np.float32)
    kept = min(out.shape[1], got.shape[1])  # soxr rounds the length where we round up
    out[:, :kept] = got[:, :kept]
    return out


def _taps(lag: np.ndarray, base: float, gain: float) -> np.ndarray:
    tau = lag * base
    window = np.where(np.abs(tau) < ZEROS, np.cos(np.pi * tau / (2 * ZEROS)) ** 2, 0.0)
    return (np.sinc(tau) * window * gain).astype(np.float32)


def _reduced(from_rate: int, to_rate: int) -> tuple[int, int]:
    for rate in (from_rate, to_rate):
        if rate < 1:
            raise InvalidRequest(f"cannot resample from {from_rate} Hz to {to_rate} Hz: a rate must be positive")
    divisor = gcd(from_rate, to_rate)
    return from_rate // divisor, to_rate // divisor
