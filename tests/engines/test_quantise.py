"""Small weights: how far they may be from what they stand for, groups that do not fit, and bytes in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sa3_engines import quantise
from sa3_engines.quantise import Blocks


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def snr_db(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()))


@pytest.mark.parametrize("group", [None, 16, 32, 100, 128, 1000])
@pytest.mark.parametrize("columns", [1, 31, 96, 100, 128, 257])
def test_eight_bits_are_half_a_step_away_at_most(columns: int, group: int | None):
    made = weight(7, columns)
    levels, scale = quantise.int8(made, group)
    size = group or columns
    assert levels.dtype == np.int8 and levels.shape == made.shape
    assert scale.dtype == np.float32 and scale.shape == (7, -(-columns // size))
    assert levels.min() >= -127 and np.abs(levels).max() == 127
    steps = np.repeat(scale, size, axis=1)[:, :columns]
    got = quantise.dequantise(levels, scale, group)
    assert got.dtype == np.float32 and (np.abs(got - made) <= steps * 0.5001).all()


def test_a_shorter_last_group_has_a_scale_of_its_own():
    made = np.ones((2, 40), np.float32)
    made[:, 32:] = 100
    levels, scale = quantise.int8(made, 32)
    assert np.allclose(scale, [[1 / 127, 100 / 127]] * 2)
    assert np.allclose(quantise.dequantise(levels, scale, 32), made)


def test_zeros_stay_zero():
    for make in (quantise.int8, quantise.int4):
        levels, scale = make(np.zeros((3, 50), np.float32), 16)
        assert not levels.any() and np.isfinite(scale).all()


@pytest.mark.parametrize("columns", [32, 50, 96])
def test_four_bits_use_all_levels_and_pick_the_better_scale(columns: int):
    made = weight(200, columns)
    levels, scale = quantise.int4(made, 32)
    assert levels.min() == -8 and levels.max() == 7
    searched = snr_db(made, quantise.dequantise(levels, scale, 32))
    plain = snr_db(made, quantise.dequantise(*quantise.int4(made, 32, clips=(1.0,)), 32))
    assert searched > plain + 0.2
    assert searched > 21 and plain > 20.5


@pytest.mark.parametrize("make", [quantise.int8, quantise.int4])
def test_a_matrix_taken_apart_for_threads_is_the_same(make: Any):
    made = weight(301, 3000)
    levels, scale = make(made, 64)
    for row in (0, 43, 44, 150, 300):
        alone, alone_scale = make(made[row : row + 1], 64)
        assert np.array_equal(levels[row], alone[0]) and np.array_equal(scale[row], alone_scale[0])


def test_halves_of_bytes_come_back():
    levels = np.random.default_rng(1).integers(-8, 8, (3, 5, 16)).astype(np.int8)
    packed = quantise.pack(levels)
    assert packed.shape == (3, 5, 8) and packed.dtype == np.uint8
    assert np.array_equal(quantise.unpack(packed), levels)
    assert quantise.pack(np.array([[-8, 7]], np.int8)).tolist() == [[0xF0]]


@pytest.mark.parametrize("blocks", [Blocks(8, 128), Blocks(8, 16), Blocks(4, 32)])
@pytest.mark.parametrize("columns", [7, 128, 200])
def test_blocks_come_back(blocks: Blocks, columns: int):
    made = weight(9, columns)
    stored, scale = blocks.store(made)
    assert stored.dtype == np.uint8 and stored.shape == blocks.shape(9, columns) and scale.shape == stored.shape[:2]
    assert snr_db(made, blocks.restore(stored, scale, columns)) > (40 if blocks.bits == 8 else 20)
    assert Blocks.parse(str(blocks)) == blocks


def test_what_fills_a_group_up_is_zero():
    stored, _ = Blocks(8, 128).store(weight(2, 100))
    assert (stored[:, :, 100:] == 128).all()
    stored, _ = Blocks(4, 64).store(weight(2, 100))
    assert (stored[:, 1, 18:] == 0x88).all()
