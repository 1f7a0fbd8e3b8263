"""Noise levels of the sampling steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa3_engines.errors import InvalidRequest
from sa3_runtime import schedule


@pytest.mark.parametrize("sigma_max", [1.0, 0.9, 0.6, 0.3])
@pytest.mark.parametrize("steps", [1, 3, 4, 8, 15])
def test_default_levels_are_torch_s_to_the_last_bit(steps: int, sigma_max: float):
    """One bit of a level turns features whose angles reach 60,000 rad: it shows in the sound."""
    line = torch.linspace(sigma_max, 0, steps + 1)
    logsnr = 2.0 - line * (2.0 - -6.2)
    # One at a time: of as many as a processor takes at once (16 here, 32 there), torch itself has some an ulp off.
    expected = torch.stack([torch.sigmoid(-one) for one in logsnr])
    expected[line <= 0], expected[line >= 1] = 0, 1
    expected[0] = sigma_max
    got = schedule.build(steps, sigma_max, None, np.array([50]))[0]
    np.testing.assert_array_equal(got, expected.numpy())


def test_the_published_default():
    got = schedule.build(8, 1.0, None, np.array([388]))[0]
    known = [1, 0.994376, 0.984480, 0.957912, 0.890903, 0.745547, 0.512497, 0.273885, 0]
    np.testing.assert_allclose(got, known, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(schedule.SHIFTS)),
    steps=st.integers(1, 60),
    # Below 7 latents, logsnr at its full rate turns round: the formula's own doing.
    lengths=st.lists(st.integers(7, 9000), min_size=1, max_size=4),
)
def test_levels_fall_from_one_to_zero(kind: str, steps: int, lengths: list[int]):
    levels = schedule.build(steps, 1.0, {"type": kind}, np.array(lengths))
    assert levels.shape == (len(lengths), steps + 1) and levels.dtype == np.float32
    assert (levels[:, 0] == 1).all() and (levels[:, -1] == 0).all()
    assert (np.diff(levels, axis=1) <= 0).all()


def test_items_have_their_own_levels():
    shift = {"type": "logsnr", "rate": 1.0}
    together = schedule.build(8, 1.0, shift, np.array([50, 4000]))
    np.testing.assert_array_equal(together[1], schedule.build(8, 1.0, shift, np.array([4000]))[0])
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("shift", [{"type": "cubic"}, {"type": "flux", "beta": 3}])
def test_unknown_shifts_and_options(shift: dict[str, object]):
    with pytest.raises(InvalidRequest):
        schedule.build(8, 1.0, shift, np.array([50]))
