import json
from math import ceil, gcd
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from sa3_engines.errors import InvalidRequest
from sa3_runtime import audio, resample

GOLDEN = sorted(Path(__file__).parents[1].glob("golden/*/cases/prepare_audio.safetensors"))


def dense(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The filter as the reference states it: every tap of every phase. Equal rates change nothing."""
    if from_rate == to_rate:
        return samples
    divisor = gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    base = min(old, new) * 0.99
    width = ceil(6 * old / base)
    taps = np.arange(-width, width + old)
    tau = np.clip((taps[None, :] / old - np.arange(new)[:, None] / new) * base, -6, 6)
    kernel = np.sinc(tau) * np.cos(np.pi * tau / 12) ** 2 * base / old
    padded = np.pad(samples.astype(np.float64), ((0, 0), (width, width + old)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)[:, ::old]
    return (windows @ kernel.T).reshape(len(samples), -1)[:, : ceil(new * samples.shape[1] / old)]


def test_golden_files_are_here() -> None:
    assert GOLDEN


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parts[-3])
def test_matches_the_reference(path: Path) -> None:
    with safe_open(path, "np") as file:
        for index, case in enumerate(json.loads(file.metadata()["params"])["cases"]):
            got = resample.exact(file.get_tensor(f"in.{index}"), case["in_sr"], case["target_sr"])
            got = audio.fix_channels(audio.fit(got, case["target_length"]))
            expected = file.get_tensor(f"out.{index}")[0]
            assert got.dtype == expected.dtype
            assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 700), st.integers(1, 3))
def test_matches_every_tap_of_every_phase(from_rate: int, to_rate: int, length: int, channels: int) -> None:
    samples = np.random.default_rng(length).standard_normal((channels, length)).astype(np.float32)
    got, expected = resample.exact(samples, from_rate, to_rate), dense(samples, from_rate, to_rate)
    assert got.shape == expected.shape == (channels, -(-to_rate * length // from_rate))
    assert np.abs(got - expected).max() <= 3e-6 * np.abs(samples).max()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([8000, 22050, 44100, 44101, 48000, 96000]), st.sampled_from([8000, 44100, 48000, 192000]))
def test_both_methods_agree_on_length_and_on_slow_signals(from_rate: int, to_rate: int) -> None:
    time = np.arange(from_rate // 10) / from_rate
    samples = np.sin(2 * np.pi * 300 * time)[None].astype(np.float32)
    exact, fast = (resample.resample(samples, from_rate, to_rate, method) for method in ("exact", "fast"))
    assert exact.shape == fast.shape
    inner = slice(to_rate // 100, -to_rate // 100)
    # The exact filter's short window leaves a ripple of a few thousandths.
    assert np.abs(exact - fast)[:, inner].max() < 0.01


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_tiny_inputs(method: resample.Method, length: int) -> None:
    for rates in [(44100, 48000), (48000, 44100), (8000, 192000), (192000, 8000), (7, 7)]:
        got = resample.resample(np.ones((2, length), np.float32), *rates, method)
        assert got.shape == (2, -(-rates[1] * length // rates[0]))
        assert got.dtype == np.float32


def test_rates_without_a_common_divisor_need_little_memory() -> None:
    import tracemalloc

    samples = np.zeros((2, 44100 * 20), np.float32)
    tracemalloc.start()
    got = resample.exact(samples, 44100, 44101)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.shape == (2, 44101 * 20)
    assert peak < 6 * samples.nbytes


def test_requests_that_cannot_be_met() -> None:
    samples, unknown = np.zeros((1, 9), np.float32), cast(Any, "sinc")
    with pytest.raises(InvalidRequest, match="choose from exact, fast"):
        resample.resample(samples, 1, 2, unknown)
    with pytest.raises(InvalidRequest, match="must be positive"):
        resample.exact(samples, 0, 44100)
