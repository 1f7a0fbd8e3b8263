"""Singular vectors that are kept: the same as computed, once per weight, and never anybody else's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sa3_engines import factors, singular

Array = np.ndarray
COUNT = 8


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(factors, "LEAST", 1)
    return tmp_path / "sa3-runtime" / "singular"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked, real = list[int](), singular.leading
    monkeypatch.setattr(singular, "leading", lambda given, count: asked.append(count) or real(given, count))
    return asked


def weight(seed: int = 0, shape: tuple[int, int] = (60, 40)) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check(given: Array, count: int = COUNT) -> None:
    u, vt = factors.leading(given, count)
    s = np.linalg.svd(given, compute_uv=False)[:count]
    assert u.shape == (len(given), count) and vt.shape == (count, given.shape[1])
    np.testing.assert_allclose(given @ vt.T, u * s, atol=1e-4)


@pytest.mark.usefixtures("cache")
def test_they_are_computed_once(computed: list[int]):
    first, second = factors.leading(weight(), COUNT), factors.leading(weight(), COUNT)
    assert computed == [COUNT]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("cache")
def test_fewer_are_among_more_and_more_are_computed(computed: list[int]):
    for count in (COUNT, 3, COUNT + 1, COUNT):
        check(weight(), count)
    assert computed == [COUNT, COUNT + 1]


@pytest.mark.usefixtures("cache")
def test_each_weight_has_its_own(computed: list[int]):
    near = weight()
    near[0, 0] += 1e-3
    for given in (weight(), near, weight().reshape(40, 60), np.asfortranarray(weight(1))):
        check(given)
    assert len(computed) == 4


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no more", "cut", "flipped", "other"])
def test_what_is_damaged_is_computed_again(cache: Path, computed: list[int], damage: bytes | str):
    check(weight())
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        path.write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
    elif damage == "other":
        np.savez(path, u=np.zeros((60, 9), np.float32), vt=np.zeros((9, 41), np.float32))
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    check(weight())
    assert len(computed) == 2
    check(weight())
    assert len(computed) == 2


def test_where_nothing_can_be_written_nothing_is_kept(cache: Path, computed: list[int]):
    cache.parent.mkdir()
    cache.write_text("not a folder")
    for _ in range(2):
        check(weight())
    assert len(computed) == 2


def test_small_ones_are_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(factors, "LEAST", 60 * 40 + 1)
    check(weight())
    assert not cache.exists()


def test_the_oldest_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch):
    check(weight())
    (first,) = cache.iterdir()
    os.utime(first, (0, 0))
    monkeypatch.setattr(factors, "MOST", int(2.5 * first.stat().st_size))
    for seed in (1, 2):
        check(weight(seed))
    assert len(list(cache.iterdir())) == 2 and not first.exists()
