"""Measures of likeness on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sa3_engines import likeness


def test_signal_to_error():
    signal = np.sin(np.arange(10_000.0))
    assert likeness.snr_db(signal, signal) == 200.0
    assert likeness.snr_db(signal, signal * 1.1) == pytest.approx(20.0)
    assert np.isnan(likeness.snr_db(signal, signal[:-1]))
    assert likeness.snr_db(np.zeros(3), np.ones(3)) == -200.0
    assert np.isnan(likeness.snr_db(signal, np.where(signal > 0.9, np.nan, signal)))


def test_large_answers_are_compared_in_pieces(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(3)
    a, b = draw.standard_normal((2, 3, 5, 11)).astype(np.float32)
    whole = likeness.snr_db(a, b), likeness.cosine(a, b)
    monkeypatch.setattr(likeness, "PIECE", 7)
    assert (likeness.snr_db(a, b), likeness.cosine(a, b)) == pytest.approx(whole)
    assert likeness.cosine(a, a) == 1.0


def test_agreement_sees_another_size():
    a = np.array([1.0, 2.0, -3.0])
    assert likeness.agreement(a, a) == likeness.agreement(np.zeros(3), np.zeros(3)) == 1.0
    assert likeness.agreement(a, a / 2) == likeness.agreement(a, 2 * a) == pytest.approx(0.8)
    assert likeness.agreement(a, -a) == pytest.approx(-1.0)
    assert likeness.agreement(a, np.zeros(3)) == 0.0
    b = a[::-1].copy()  # as large
    assert likeness.agreement(a, b) == pytest.approx(likeness.cosine(a, b))
    assert np.isnan(likeness.agreement(a, np.array([np.nan, 0.0, 1.0])))


def test_cosine():
    a = np.array([1.0, 0.0, 1.0])
    assert likeness.cosine(a, 5 * a) == pytest.approx(1.0)
    assert likeness.cosine(a, -a) == pytest.approx(-1.0)
    assert likeness.cosine(a, np.array([0.0, 1.0, 0.0])) == 0.0
    assert likeness.cosine(a, np.zeros(3)) == 0.0
    assert likeness.cosine(np.zeros(3), np.zeros(3)) == 1.0
    assert np.isnan(likeness.cosine(a, np.array([np.nan, 0.0, 1.0])))


def test_spectral_distance():
    music = likeness.music(8000, 1.0)
    assert likeness.spectral_db(music, music) == 0.0
    assert likeness.spectral_db(music, 10 * music) == pytest.approx(20.0, abs=8.0)  # quiet bins are held at a floor
    assert likeness.spectral_db(music, music[:, ::-1]) > likeness.spectral_db(music, 1.01 * music) > 0
    assert np.isnan(likeness.spectral_db(music[:, :50], music[:, :50]))


def test_music_is_the_same_everywhere_and_is_music():
    first, again = likeness.music(44100, 2.0), likeness.music(44100, 2.0)
    assert np.array_equal(first, again) and first.shape == (2, 88200) and first.dtype == np.float32
    assert 0.69 < np.abs(first).max() <= 0.7001 and not np.array_equal(first[0], first[1])
    assert (np.abs(first).reshape(2, 20, -1).max(axis=2) > 0.01).all()  # no silent tenth of a second


def test_relative_error():
    ones, nan = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    assert np.isnan(likeness.relative_error(ones, nan)) and np.isnan(likeness.snr_db(ones, nan))
    assert np.isnan(likeness.relative_error(ones, ones[:, :2])) and np.isnan(likeness.snr_db(ones, ones[:, :2]))
    assert likeness.relative_error(ones, ones * np.float32(1.5)) == 0.5
