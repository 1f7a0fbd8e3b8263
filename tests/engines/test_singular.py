"""The leading singular vectors, against the whole decomposition in fp64."""

from __future__ import annotations

import numpy as np
import pytest

from sa3_engines import singular

Array = np.ndarray
COUNT = 8
N = np.arange(200)
PAIRS = np.repeat(np.linspace(2, 1, 100), 2) * np.tile([1, 1 - 1e-6], 100)
# What can be followed, and what is decomposed as a whole because no vector could be told from the next.
FOLLOWED = {
    "slow": 1 / (1 + N),
    "fast": np.exp(-N / 20),
    "one large": np.r_[100, np.linspace(1.2, 0.1, 199)],
    "nearly pairs": PAIRS,
}
WHOLE = {
    "flat": np.ones(200),
    "a plateau": np.r_[[3, 2, 1.5], np.ones(197)],
    "few": np.r_[np.linspace(2, 1, 5), np.zeros(195)],
    "steep": np.maximum(10.0**-N, 1e-9),
    "none": np.zeros(200),
}


def matrix(values: Array, rows: int, columns: int) -> Array:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (rows, columns))
    return ((left * values) @ right.T).astype(np.float32)


def check(given: Array) -> None:
    """By the change of an -xs adapter, which is written in these vectors: each is right, and has its sign."""
    u, _, vt = np.linalg.svd(given.astype(np.float64), full_matrices=False)
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(vt))])[:COUNT]
    core = np.random.default_rng(1).standard_normal((COUNT, COUNT))
    expected = (u[:, :COUNT] * signs) @ core @ (vt[:COUNT] * signs[:, None])
    found = singular.leading(given, COUNT)
    assert found[0].dtype == found[1].dtype == np.float32
    assert np.linalg.norm(found[0] @ core @ found[1] - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.fixture
def no_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singular, "_whole", lambda *_: pytest.fail("not followed"))


@pytest.mark.parametrize("shape", [(200, 200), (700, 200), (200, 700)])
@pytest.mark.parametrize("values", FOLLOWED.values(), ids=FOLLOWED)
@pytest.mark.usefixtures("no_whole")
def test_they_are_followed(values: Array, shape: tuple[int, int]):
    check(matrix(values, *shape))


@pytest.mark.parametrize("shape", [(200, 200), (700, 200), (200, 700)])
@pytest.mark.usefixtures("no_whole")
def test_random_weights_are_followed(shape: tuple[int, int]):
    check(np.random.default_rng(2).standard_normal(shape, np.float32))


@pytest.mark.parametrize("values", WHOLE.values(), ids=WHOLE)
def test_where_nothing_is_proved_all_are_computed(values: Array, monkeypatch: pytest.MonkeyPatch):
    asked, whole = list[int](), singular._whole
    monkeypatch.setattr(singular, "_whole", lambda given, count: asked.append(count) or whole(given, count))
    check(matrix(values, 200, 200))
    assert asked == [COUNT]


def test_small_matrices_are_decomposed():
    check(np.random.default_rng(3).standard_normal((COUNT, 300), np.float32))
