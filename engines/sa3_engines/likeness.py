"""How near one answer is to another, and the music it is asked about: for the gate of exports and for benchmarks."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray
WINDOWS = (2048, 512, 128)


def music(rate: int, seconds: float) -> Array:
    """Stereo (2, n): an arpeggio of plucked chords, a bass, and a beat of noise. The same on every machine."""
    rng = np.random.default_rng(7)
    count = int(rate * seconds)
    time = np.arange(count) / rate
    left, right = np.zeros(count), np.zeros(count)
    for beat in range(int(seconds * 4) + 1):
        since = time - beat / 4
        on = since >= 0
        pluck = 220.0 * 2 ** ((0, 4, 7, 12, 9, 7, 4, 2)[beat % 8] / 12)
        tone = sum(np.sin(2 * np.pi * pluck * k * since) / k for k in range(1, 9) if pluck * k < rate / 2)
        tone = np.where(on, tone * np.exp(-6 * np.maximum(since, 0)), 0)
        pan = 0.5 + 0.4 * math.sin(beat)
        left, right = left + pan * tone, right + (1 - pan) * tone
        if beat % 2 == 0:
            bass = np.where(on, np.sin(2 * np.pi * 55 * since) * np.exp(-3 * np.maximum(since, 0)), 0)
            hit = np.where(on, rng.standard_normal(count) * np.exp(-60 * np.maximum(since, 0)), 0)
            left, right = left + bass + 0.3 * hit, right + bass + 0.3 * hit
    both = np.stack((left, right))
    return (0.7 * both / np.abs(both).max()).astype(np.float32)


def snr_db(reference: Array, other: Array) -> float:
    if not _comparable(reference, other):
        return math.nan
    a, b = reference.astype(np.float64), other.astype(np.float64)
    power, error = float((a**2).sum()), float(((a - b) ** 2).sum())
    if power == 0 or error == 0:
        return 200.0 if error == 0 else -200.0
    return min(200.0, 10 * math.log10(power / error))


def relative_error(reference: Array, other: Array) -> float:
    """The largest difference as a share of the largest value; NaN where the shapes or a value are wrong."""
    if not _comparable(reference, other):
        return math.nan
    largest = float(np.abs(reference).max())
    return float(np.abs(other - reference).max()) / (largest or 1.0)


def cosine(reference: Array, other: Array) -> float:
    if not _comparable(reference, other):
        return math.nan
    a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    if np.array_equal(a, b):
        return 1.0  # silence too is like itself
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def _comparable(reference: Array, other: Array) -> bool:
    return reference.shape == other.shape and bool(np.isfinite(reference).all() and np.isfinite(other).all())


def spectral_db(reference: Array, other: Array) -> float:
    """Mean distance of log magnitudes over three window lengths, in dB; what lies 80 dB down counts as silence."""
    distances: list[float] = []
    for window in WINDOWS:
        if reference.shape[-1] < window:
            continue
        a, b = _magnitudes(reference, window), _magnitudes(other, window)
        floor = a.max() * 1e-4
        distances.append(float(np.abs(20 * np.log10(np.maximum(a, floor) / np.maximum(b, floor))).mean()))
    return float(np.mean(distances)) if distances else math.nan


def _magnitudes(sound: Array, window: int) -> Array:
    frames = np.lib.stride_tricks.sliding_window_view(sound, window, axis=-1)[..., :: window // 4, :]
    return np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1))
