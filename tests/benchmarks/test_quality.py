"""The measures of quality on sounds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sa3_bench import measure, quality
from sa3_bench.cases import Case
from sa3_engines.errors import InvalidRequest


def test_signal_to_error():
    signal = np.sin(np.arange(10_000.0))
    assert quality.snr_db(signal, signal) == 200.0
    assert quality.snr_db(signal, signal * 1.1) == pytest.approx(20.0)
    assert np.isnan(quality.snr_db(signal, signal[:-1]))
    assert np.isnan(quality.snr_db(np.zeros(3), np.ones(3)))


def test_cosine():
    a = np.array([1.0, 0.0, 1.0])
    assert quality.cosine(a, 5 * a) == pytest.approx(1.0)
    assert quality.cosine(a, -a) == pytest.approx(-1.0)
    assert quality.cosine(a, np.array([0.0, 1.0, 0.0])) == 0.0
    assert np.isnan(quality.cosine(a, np.zeros(3)))


def test_spectral_distance():
    music = quality.music(8000, 1.0)
    assert quality.spectral_db(music, music) == 0.0
    assert quality.spectral_db(music, 10 * music) == pytest.approx(20.0, abs=8.0)  # quiet bins are held at a floor
    assert quality.spectral_db(music, music[:, ::-1]) > quality.spectral_db(music, 1.01 * music) > 0
    assert np.isnan(quality.spectral_db(music[:, :50], music[:, :50]))


def test_music_is_the_same_everywhere_and_is_music():
    first, again = quality.music(44100, 2.0), quality.music(44100, 2.0)
    assert np.array_equal(first, again) and first.shape == (2, 88200) and first.dtype == np.float32
    assert 0.69 < np.abs(first).max() <= 0.7001 and not np.array_equal(first[0], first[1])
    assert (np.abs(first).reshape(2, 20, -1).max(axis=2) > 0.01).all()  # no silent tenth of a second


def test_what_is_wrong():
    near = {"velocity_cosine": 0.99, "decode_cosine": 0.95}
    assert quality.wrong(near) is None
    assert "velocity cosine 0.100" in str(quality.wrong(near | {"velocity_cosine": 0.1}))
    assert "decode cosine nan" in str(quality.wrong(near | {"decode_cosine": float("nan")}))


def test_a_model_agrees_with_itself_and_not_with_none(tiny_model):
    found = {}
    for backend in ("torch", "null"):
        pipeline, _ = measure.open_pipeline(Case(model=str(tiny_model), seconds=1.0, backend=backend, threads=1))
        with pipeline:
            found[backend] = quality.answers(pipeline)
    same = quality.parity(found["torch"], found["torch"])
    assert same["velocity_cosine"] == pytest.approx(1.0) and same["velocity_db"] == 200.0
    assert quality.wrong(quality.parity(found["torch"], found["null"])) is not None
    assert set(quality.codec(found["torch"])) == {"codec_db", "codec_spectral_db"}


def test_the_hook_for_a_score():
    assert callable(quality.scorer("math:fsum"))
    for name in ("nowhere:nothing", "math:nothing", "math", ""):
        with pytest.raises(InvalidRequest, match="--clap"):
            quality.scorer(name)
