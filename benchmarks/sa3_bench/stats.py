"""Times to statements: medians, bootstrap intervals of a ratio, and whether two sets of runs differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST, FEWEST_PAIRS = 3, 5  # runs on each side, below which nothing is said
MARGIN, APART_MARGIN = 0.02, 0.05  # differences not believed, between interleaved runs and others

Times = Sequence[float]
FASTER, SLOWER, UNCLEAR = "faster", "slower", "not distinguishable"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much longer the second takes: 1.1 is 10 % slower."""

    value: float
    low: float
    high: float
    interleaved: bool


def median(times: Times) -> float:
    return float(np.median(np.asarray(times, np.float64)))


def spread(times: Times) -> float:
    """How far apart the middle four fifths of the runs lie, as a share of the median: a machine's noise."""
    if len(times) < 2:
        return 0.0
    low, high = np.quantile(np.asarray(times, np.float64), (0.1, 0.9))
    return float((high - low) / median(times))


def ratio(a: Times, b: Times, *, interleaved: bool = False, confidence: float = CONFIDENCE, seed: int = 0) -> Ratio:
    """b's time over a's, with a bootstrap interval. Interleaved runs are compared in pairs: what slows both cancels.

    With margins of 2 and 5 % (`verdict`), under 2 % of comparisons of equal things come out as different: simulated
    with 3 % of noise and every seventh run 30 % slow. Means would find smaller differences, and trip over outliers.
    """
    logs_a, logs_b = np.log(np.asarray(a, np.float64)), np.log(np.asarray(b, np.float64))
    rng = np.random.default_rng(seed)
    if interleaved:
        pairs = logs_b[: len(logs_a)] - logs_a[: len(logs_b)]
        drawn = _medians(pairs, rng)
        middle, count = float(np.median(pairs)), len(pairs)
    else:
        drawn = _medians(logs_b, rng) - _medians(logs_a, rng)
        middle, count = float(np.median(logs_b) - np.median(logs_a)), min(len(logs_a), len(logs_b))
    tail = _tail(confidence, count)
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Ratio(value=math.exp(middle), low=math.exp(low), high=math.exp(high), interleaved=interleaved)


def interval(times: Times, confidence: float = CONFIDENCE, seed: int = 0) -> tuple[float, float]:
    """Of the median."""
    logs = np.log(np.asarray(times, np.float64))
    tail = _tail(confidence, len(logs))
    low, high = np.quantile(_medians(logs, np.random.default_rng(seed)), (tail, 1 - tail))
    return math.exp(low), math.exp(high)


def verdict(r: Ratio, runs: int, margin: float | None = None) -> str:
    """runs: how many there are of the side that has fewer."""
    margin = margin if margin is not None else MARGIN if r.interleaved else APART_MARGIN
    if runs < (FEWEST_PAIRS if r.interleaved else FEWEST):
        return UNCLEAR
    if r.low > 1 + margin:
        return SLOWER
    return FASTER if r.high < 1 - margin else UNCLEAR


def paired(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether runs begun at these moments took turns: each pair was over before the next began."""
    if len(a) != len(b) or len(a) < 2:
        return False
    return all(max(a[i], b[i]) < min(a[i + 1], b[i + 1]) for i in range(len(a) - 1))


def _medians(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)


def _tail(confidence: float, count: int) -> float:
    """The share to cut off each end. Fewer than five runs say too little for that: all of what they allow is kept."""
    return 0.0 if count < FEWEST_PAIRS else (1 - confidence) / 2
