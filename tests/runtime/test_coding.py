"""Encoding and decoding in windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa3_engines.engine import Inputs, Outputs
from sa3_engines.errors import InvalidRequest
from sa3_runtime import coding
from sa3_runtime.coding import Chunking
from sa3_runtime.noise import TorchGenerator
from sa3_runtime.pipeline import Pipeline


def latents(pipeline: Pipeline, frames: int, items: int = 1) -> np.ndarray:
    channels = pipeline.config.autoencoder.latent_channels
    return np.random.default_rng(0).standard_normal((items, channels, frames)).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(2, 200), overlap=st.integers(0, 199), extra=st.integers(0, 700))
def test_windows_cover_everything_once(size: int, overlap: int, extra: int):
    overlap %= size
    total = size + extra
    windows = Chunking(size=size, overlap=overlap).windows(total)
    assert windows[0][1] == 0 and windows[-1][2] == total
    for (start, first, end), following in zip(windows, [*windows[1:], None], strict=True):
        assert start <= first <= end <= start + size <= total
        if following:
            assert end == following[1]


@pytest.mark.parametrize("kwargs", [{"size": 1}, {"size": 8, "overlap": 8}, {"overlap": -1}])
def test_impossible_windows(kwargs: dict[str, int]):
    with pytest.raises(InvalidRequest):
        Chunking(**kwargs)


@pytest.mark.parametrize("frames", [1, 2, 7, 40, 127])
def test_short_clips_are_decoded_in_one_pass(tiny: Pipeline, frames: int):
    z = latents(tiny, frames)
    whole = coding.decode(tiny.engine, z, chunking=None)
    np.testing.assert_array_equal(coding.decode(tiny.engine, z, chunking=Chunking()), whole)


@pytest.mark.parametrize("frames", [50, 51, 300])
@pytest.mark.parametrize("noisy", [False, True])
def test_only_what_is_heard_is_decoded(tiny: Pipeline, frames: int, noisy: bool):
    """Leaving out what follows changes nothing in what is kept, with the reference's noise or without."""
    z, ratio = latents(tiny, frames), tiny.config.ratio

    def decode(samples: int | None) -> np.ndarray:
        noise = TorchGenerator(5) if noisy else None
        return coding.decode(tiny.engine, z, chunking=Chunking(), samples=samples, noise=noise)

    whole = decode(None)
    for samples in (1, ratio - 1, 10 * ratio, 17 * ratio + 3, (frames - 1) * ratio, 200 * ratio):
        if samples <= frames * ratio:
            np.testing.assert_allclose(decode(samples), whole[:, :, :samples], atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    ("size", "overlap", "frames"), [(128, 32, 300), (64, 16, 301), (40, 2, 90), (41, 0, 100), (2, 1, 9)]
)
def test_windows_are_decoded_as_far_as_they_count(tiny: Pipeline, size: int, overlap: int, frames: int, noisy: bool):
    """What a window gives is as if all of it had been decoded, with its artificial edges where they show."""
    z, ratio, chunking = latents(tiny, frames), tiny.config.ratio, Chunking(size=size, overlap=overlap)
    drawn = TorchGenerator(5)
    expected = np.zeros((1, tiny.config.autoencoder.channels, frames * ratio), np.float32)
    for start, first, end in chunking.windows(frames):
        window = z[:, :, start : start + size]
        audio = coding.decode(tiny.engine, window, chunking=None, noise=drawn if noisy else None)
        expected[:, :, first * ratio : end * ratio] = audio[:, :, (first - start) * ratio : (end - start) * ratio]
    got = coding.decode(tiny.engine, z, chunking=chunking, noise=TorchGenerator(5) if noisy else None)
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(("size", "overlap", "frames"), [(128, 32, 300), (64, 16, 301), (40, 2, 90), (2, 1, 9)])
def test_windows_are_encoded_as_far_as_they_count(tiny: Pipeline, size: int, overlap: int, frames: int, noisy: bool):
    ratio, chunking = tiny.config.ratio, Chunking(size=size, overlap=overlap)
    audio = np.random.default_rng(1).standard_normal((2, 2, frames * ratio)).astype(np.float32)
    drawn = TorchGenerator(5)
    expected = np.zeros((2, tiny.config.autoencoder.latent_channels, frames), np.float32)
    for start, first, end in chunking.windows(frames):
        window = audio[:, :, start * ratio : (start + size) * ratio]
        found = coding.encode(tiny.engine, window, chunking=None, noise=drawn if noisy else None)
        expected[:, :, first:end] = found[:, :, first - start : end - start]
    got = coding.encode(tiny.engine, audio, chunking=chunking, noise=TorchGenerator(5) if noisy else None)
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("graph", ["decode", "encode"])
def test_long_sound_is_hardly_done_twice(tiny: Pipeline, graph: str, monkeypatch: pytest.MonkeyPatch):
    config, done = tiny.config, 0
    run = tiny.engine.run

    def counted(name: str, inputs: Inputs) -> Outputs:
        nonlocal done
        done += inputs["latents"].shape[2] if name == "decode" else inputs["audio"].shape[2] // config.ratio
        return run(name, inputs)

    monkeypatch.setattr(tiny.engine, "run", counted)
    if graph == "decode":
        coding.decode(tiny.engine, latents(tiny, 1000), chunking=Chunking())
    else:
        coding.encode(tiny.engine, np.ones((1, 2, 1000 * config.ratio), np.float32), chunking=Chunking())
    whole = sum(Chunking().size for _ in Chunking().windows(1000))
    assert done <= 1.1 * 1000 < whole / 1.25


def test_less_work_for_less_sound(null: Pipeline):
    coding.decode(null.engine, latents(null, 1000), chunking=Chunking(), samples=100 * null.config.ratio)
    assert null.engine.calls.count("decode") == 1  # pyright: ignore


def test_pieces_are_final_and_in_order(tiny: Pipeline):
    z = latents(tiny, 300)
    parts = list(coding.pieces(tiny.engine, z, chunking=Chunking(size=64, overlap=16)))
    assert len(parts) > 4
    whole = coding.decode(tiny.engine, z, chunking=Chunking(size=64, overlap=16))
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000])
def test_encode_fills_up_odd_lengths(tiny: Pipeline, samples: int):
    audio = np.random.default_rng(1).standard_normal((2, 2, samples)).astype(np.float32)
    got = coding.encode(tiny.engine, audio, chunking=None)
    half = tiny.config.autoencoder.encoder
    chunks = -(-samples // (tiny.config.ratio * half.latents_multiple))
    assert got.shape == (2, tiny.config.autoencoder.latent_channels, chunks * half.latents_multiple)


def test_items_do_not_touch_each_other(tiny: Pipeline):
    z = latents(tiny, 30, items=3)
    together = coding.decode(tiny.engine, z, chunking=None)
    for index in range(3):
        alone = coding.decode(tiny.engine, z[index : index + 1], chunking=None)
        np.testing.assert_allclose(together[index : index + 1], alone, atol=2e-6 * np.abs(alone).max())
