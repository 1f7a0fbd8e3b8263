from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa3_engines.errors import BadOutput, InvalidRequest
from sa3_runtime.audio import Sound
from sa3_runtime.finish import Finish, finish

RATE = 44100


def true_peak_db(samples: np.ndarray) -> float:
    """By a spectrum with zeros after its end, which shares nothing with the limiter's own filter."""
    length = samples.shape[1]
    silence = np.zeros((len(samples), 1000))
    spectrum = np.fft.rfft(np.concatenate([silence, samples, silence], axis=1))
    return 20 * np.log10(max(np.abs(np.fft.irfft(spectrum * 4, 4 * (length + 2000))).max(), 1e-10))


def music(seed: int, loudness: float, seconds: float = 1.0, rate: int = RATE, top: float = 0.42) -> np.ndarray:
    """Noise up to `top` of the rate, in bursts."""
    rng = np.random.default_rng(seed)
    length = int(seconds * rate)
    spectrum = np.fft.rfft(rng.standard_normal((2, length)))
    spectrum[:, int(top * length) :] = 0
    envelope = np.interp(np.arange(length), np.linspace(0, length, 9), rng.random(9) ** 3)
    return (np.fft.irfft(spectrum, length) * envelope * loudness).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.05, 20), st.floats(-12, 0), st.sampled_from([8000, 44100, 96000]))
def test_the_true_peak_never_exceeds_the_ceiling(seed: int, loudness: float, ceiling: float, rate: int) -> None:
    sound = Sound(music(seed, loudness, 0.3, rate), rate)
    got, report = finish(sound, Finish(limiter=ceiling))
    assert true_peak_db(got.samples) <= ceiling + 0.1
    assert np.abs(got.samples).max() <= 10 ** (ceiling / 20) + 1e-6
    assert report.true_peak_db == pytest.approx(true_peak_db(sound.samples), abs=0.1)
    assert report.reduction_db >= report.true_peak_db - ceiling - 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3000), st.floats(-12, 0))
def test_below_the_ceiling_nothing_changes(seed: int, length: int, ceiling: float) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, (2, length)).astype(np.float32)
    samples *= np.float32(10 ** ((ceiling - 8) / 20))
    got, report = finish(Sound(samples, RATE), Finish(limiter=ceiling))
    assert np.array_equal(got.samples, samples)
    assert (report.changed, report.reduction_db) == (0, 0)


def test_only_what_is_around_a_peak_changes() -> None:
    samples = music(0, 0.1, 5)
    samples[0, 2 * RATE] = 2
    got, report = finish(Sound(samples, RATE), Finish(limiter=-1))
    same = (got.samples == samples).all(axis=0)
    assert same[: int(1.98 * RATE)].all()
    assert same[int(3.2 * RATE) :].all()
    assert not same[2 * RATE]
    assert 0.1 < report.changed < 0.3
    assert report.reduction_db == pytest.approx(report.true_peak_db + 1, abs=0.01)
    # Both channels are turned down by the same factor.
    at = 2 * RATE + 50
    assert np.ptp(got.samples[:, at] / samples[:, at]) < 1e-6


def test_the_gain_moves_smoothly() -> None:
    samples = np.full((1, RATE), 0.5, np.float32)
    samples[0, RATE // 2] = 4
    gain = finish(Sound(samples, RATE), Finish(limiter=-1))[0].samples[0] / samples[0]
    assert np.abs(np.diff(gain)).max() < 0.02
    assert gain.min() < 0.25
    assert gain[RATE // 2 - int(0.008 * RATE)] == 1
    assert 0.3 < gain[RATE // 2 + int(0.08 * RATE)] < 0.8


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 500])
def test_short_sounds(length: int) -> None:
    got, _ = finish(Sound(np.full((2, length), 3, np.float32), RATE), Finish(limiter=-1))
    assert got.samples.shape == (2, length)
    assert np.abs(got.samples).max() <= 10 ** (-1 / 20) + 1e-6


def test_without_a_limiter_it_clamps_as_the_reference_does() -> None:
    samples = np.array([[0.5, 1.5, -1.5, 1.0]], np.float32)
    got, report = finish(Sound(samples, RATE), Finish())
    assert got.samples.tolist() == [[0.5, 1.0, -1.0, 1.0]]
    assert report.changed == 0.5
    assert report.sample_peak_db == report.reduction_db == pytest.approx(3.52, abs=0.01)
    assert report.true_peak_db >= report.sample_peak_db
    quiet = Sound(samples * 0.5, RATE)
    assert finish(quiet, Finish())[0].samples is quiet.samples


def test_channels_and_rate_come_before_the_limiter() -> None:
    sound = Sound(music(1, 4), RATE)
    got, _ = finish(sound, Finish(limiter=-1, rate=48000, channels=1))
    assert (got.rate, got.samples.shape) == (48000, (1, 48000))
    assert true_peak_db(got.samples) <= -0.9
    mono, _ = finish(Sound(sound.samples * 0.01, RATE), Finish(channels=1))
    assert np.allclose(mono.samples[0], sound.samples.mean(axis=0) * 0.01, atol=1e-6)
    stereo, _ = finish(mono, Finish(channels=2))
    assert np.array_equal(stereo.samples, np.repeat(mono.samples, 2, axis=0))


def test_silence_has_a_finite_level() -> None:
    for options in (Finish(), Finish(limiter=-1)):
        got, report = finish(Sound(np.zeros((2, 100), np.float32), RATE), options)
        assert not got.samples.any()
        assert (report.true_peak_db, report.sample_peak_db, report.reduction_db) == (-200, -200, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_sound_is_not_finished(value: float) -> None:
    with pytest.raises(BadOutput, match="NaN or infinite"):
        finish(Sound(np.full((2, 100), value, np.float32), RATE), Finish(limiter=-1))


@pytest.mark.parametrize(
    "options",
    [{"limiter": 1}, {"limiter": float("nan")}, {"limiter": -50}, {"rate": 0}, {"rate": 10**7}, {"channels": 3}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        Finish(**options)


@pytest.mark.parametrize("wrong", [{"limiter": "-1"}, {"rate": 44100.5}, {"rate": True}, {"channels": "2"}])
def test_what_is_no_number_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        Finish(**wrong)
