"""How near one answer is to another, and the music it is asked about: for the gate of exports and for benchmarks."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray
WINDOWS = (2048, 512, 128)
PIECE = 1 << 20  # numbers compared at once


def music(rate: int, seconds: float) -> Array:
    """Stereo (2, n): an arpeggio of plucked chords, a bass, and a beat of noise. The same on every machine."""
    draw = np.random.default_rng(7)
    both = np.zeros((2, int(rate * seconds)))
    plucks = [_pluck(rate, 220.0 * 2 ** (step / 12)) for step in (0, 4, 7, 12, 9, 7, 4, 2)]
    since = _until_silent(rate, 3)
    bass = np.sin(2 * np.pi * 55 * since) * np.exp(-3 * since)
    fading = np.exp(-60 * _until_silent(rate, 60))
    for beat in range(int(seconds * 4) + 1):
        at = round(beat * rate / 4)
        pan = 0.5 + 0.4 * math.sin(beat)
        _add(both, at, plucks[beat % 8], pan, 1 - pan)
        if beat % 2 == 0:
            _add(both, at, bass)
            _add(both, at, draw.standard_normal(len(fading)) * fading, 0.3, 0.3)
    return (0.7 * both / np.abs(both).max()).astype(np.float32)


def _pluck(rate: int, frequency: float) -> Array:
    since = _until_silent(rate, 6)
    partials = (np.sin(2 * np.pi * frequency * k * since) / k for k in range(1, 9) if frequency * k < rate / 2)
    return sum(partials) * np.exp(-6 * since)


def _until_silent(rate: int, decay: float) -> Array:
    """Times from 0 on, until what fades with exp(-decay t) is below the last bit of a sample."""
    return np.arange(int(rate * 20 / decay)) / rate


def _add(both: Array, at: int, sound: Array, left: float = 1.0, right: float = 1.0) -> None:
    room = both[:, at : at + len(sound)]
    room += np.array([[left], [right]]) * sound[: room.shape[1]]


def snr_db(reference: Array, other: Array) -> float:
    if not _comparable(reference, other):
        return math.nan
    power, _, _, error = _sums(reference, other)
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
    power, others, both, error = _sums(reference, other)
    if error == 0:
        return 1.0  # silence too is like itself
    size = math.sqrt(power) * math.sqrt(others)
    return both / size if size > 0 else 0.0


def agreement(reference: Array, other: Array) -> float:
    """The cosine where both are equally large, and less where one is larger: half as large makes 0.8."""
    if not _comparable(reference, other):
        return math.nan
    power, others, both, error = _sums(reference, other)
    return 1.0 if error == 0 else 2 * both / (power + others)


def _sums(reference: Array, other: Array) -> tuple[float, float, float, float]:
    """Of squares of the one, of the other, of products, and of squares of differences, with the digits of fp64; a piece
    at a time, since what a network keeps for all its layers is large enough as it is.
    """
    sums = np.zeros(4)
    first, second = reference.reshape(-1), other.reshape(-1)
    for start in range(0, first.size, PIECE):
        a, b = (one[start : start + PIECE].astype(np.float64) for one in (first, second))
        apart = a - b
        sums += (a @ a, b @ b, a @ b, apart @ apart)
    power, others, both, error = sums.tolist()
    return power, others, both, error


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
