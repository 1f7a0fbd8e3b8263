"""Durations, alignment and masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa3_engines import models
from sa3_runtime import lengths

SMALL, MEDIUM = models.released_config("small-music"), models.released_config("medium")


@pytest.mark.parametrize(("seconds", "frames"), [(5, 120), (30, 388), (120, 1292)])
def test_published_lengths(seconds: float, frames: int):
    assert lengths.frames(SMALL, [seconds], 6.0, SMALL.sample_size) == frames


def test_medium_reaches_its_own_limit():
    assert lengths.frames(MEDIUM, [380], 6.0, MEDIUM.sample_size) == 4096


@settings(max_examples=200, deadline=None)
@given(seconds=st.floats(0.001, 120), padding=st.floats(0, 12))
def test_frames_hold_the_sound_and_fill_whole_chunks(seconds: float, padding: float):
    frames = lengths.frames(SMALL, [seconds], padding, SMALL.sample_size)
    assert frames * SMALL.ratio >= min(int(seconds * 44100), SMALL.sample_size)
    assert frames % SMALL.align_latents == 0 or frames * SMALL.ratio == SMALL.sample_size
    assert frames * SMALL.ratio - int((seconds + padding) * 44100) < SMALL.align_latents * SMALL.ratio


@settings(max_examples=100, deadline=None)
@given(seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=4))
def test_valid_frames(seconds: list[float]):
    total = lengths.frames(SMALL, seconds, 6.0, SMALL.sample_size)
    valid = lengths.valid(SMALL, seconds, 6.0, total)
    assert valid.shape == (len(seconds), total)
    for row, one in zip(valid, seconds, strict=True):
        count = int(row.sum())
        assert row[:count].all(), "valid frames come first"
        assert count == min(-(-int(one * 44100) // 4096) + 64, total)


def test_kept_mask_by_hand():
    """Latents take the mask at their first sample; what lies beyond the duration is made anew."""
    mask = lengths.kept_mask(SMALL, [(1.0, 2.0)], 3.0, 60)[0, 0]
    rate, ratio = 44100, 4096
    for frame, kept in enumerate(mask):
        sample = frame * ratio
        inside = rate <= sample < 2 * rate
        assert kept == (0 if inside or sample >= 3 * rate else 1)


def test_a_mask_of_samples_stands_for_regions():
    samples = np.ones(60 * 4096)
    samples[44100 : 2 * 44100] = 0
    by_mask = lengths.kept_mask(SMALL, [], 3.0, 60, samples)
    np.testing.assert_array_equal(by_mask, lengths.kept_mask(SMALL, [(1.0, 2.0)], 3.0, 60))


def test_masks_longer_and_shorter_than_the_clip():
    long = lengths.kept_mask(SMALL, [], 3.0, 20, np.zeros(10**6))
    assert not long.any()
    short = lengths.kept_mask(SMALL, [], 3.0, 20, np.zeros(4096 * 3))
    np.testing.assert_array_equal(short[0, 0], [0, 0, 0, *[1] * 17])
