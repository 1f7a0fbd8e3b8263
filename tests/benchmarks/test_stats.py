"""The statistics on synthetic timings whose answer is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sa3_bench import stats

SETS = 150


def noisy(rng: np.random.Generator, count: int, scale: float = 1.0) -> np.ndarray:
    """3 % of noise, and every seventh run 30 % slow, as on a shared machine."""
    times = scale * (1 + 0.03 * rng.standard_normal(count))
    return times * np.where(rng.random(count) < 1 / 7, 1.3, 1.0)


def verdicts(count: int, scale: float, *, interleaved: bool, drift: float = 0.0) -> Counter[str]:
    rng = np.random.default_rng(1)
    found: Counter[str] = Counter()
    for seed in range(SETS):
        course = 1 + drift * np.linspace(0, 1, count)
        a, b = noisy(rng, count) * course, noisy(rng, count, scale) * course
        ratio = stats.ratio(list(a), list(b), interleaved=interleaved, seed=seed)
        found[stats.verdict(ratio, count)] += 1
    return found


def test_median_and_spread():
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.spread([5.0]) == 0.0
    assert stats.spread([1.0] * 10) == 0.0
    assert stats.spread(list(np.linspace(0.9, 1.1, 101))) == pytest.approx(0.16)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_constant_ratio_is_found_exactly(interleaved: bool):
    ratio = stats.ratio([1.0] * 6, [1.5] * 6, interleaved=interleaved)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert stats.verdict(ratio, 6) == stats.SLOWER
    assert stats.verdict(stats.ratio([1.5] * 6, [1.0] * 6, interleaved=interleaved), 6) == stats.FASTER


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_equal_things_are_not_told_apart(count: int, interleaved: bool):
    found = verdicts(count, 1.0, interleaved=interleaved)
    assert found[stats.UNCLEAR] >= 0.96 * SETS


@pytest.mark.parametrize("count", [5, 10])
def test_large_differences_are_found_and_never_reversed(count: int):
    found = verdicts(count, 2.0, interleaved=True)
    assert found[stats.SLOWER] >= 0.95 * SETS
    assert verdicts(count, 1.1, interleaved=True)[stats.FASTER] == 0


def test_taking_turns_sees_through_a_drift():
    apart = verdicts(12, 1.1, interleaved=False, drift=0.5)
    turns = verdicts(12, 1.1, interleaved=True, drift=0.5)
    assert apart[stats.SLOWER] < 0.1 * SETS
    assert turns[stats.SLOWER] > 0.6 * SETS


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_interval_holds_the_true_ratio(interleaved: bool):
    rng = np.random.default_rng(2)
    inside = 0
    for seed in range(SETS):
        a, b = noisy(rng, 8), noisy(rng, 8, 1.3)
        ratio = stats.ratio(list(a), list(b), interleaved=interleaved, seed=seed)
        inside += ratio.low <= 1.3 <= ratio.high
    assert inside >= 0.9 * SETS  # medians of eight fall a little short of 95 %


def test_too_few_runs_say_nothing():
    assert stats.verdict(stats.ratio([1.0, 1.0], [3.0, 3.0]), 2) == stats.UNCLEAR
    assert stats.verdict(stats.ratio([1.0] * 4, [3.0] * 4, interleaved=True), 4) == stats.UNCLEAR


def test_a_difference_within_the_margin_is_not_believed():
    ratio = stats.ratio([1.0] * 8, [1.04] * 8)
    assert stats.verdict(ratio, 8) == stats.UNCLEAR
    assert stats.verdict(ratio, 8, margin=0.01) == stats.SLOWER


def test_whether_runs_took_turns():
    assert stats.paired([0, 3, 4], [1, 2, 5])  # A B B A A B
    assert not stats.paired([0, 1, 2], [3, 4, 5])
    assert not stats.paired([0, 2], [1])
    assert not stats.paired([0], [1])


def test_the_interval_of_one_run_is_that_run():
    assert stats.interval([2.0]) == pytest.approx((2.0, 2.0))
