"""Random numbers: torch's own, whatever the machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa3_runtime.noise import PerItem, TorchGenerator

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shapes=SHAPES)
def test_draws_are_torch_s(seed: int, shapes: list[tuple[int, int]]):
    """Also draws of fewer than 16 numbers, which torch makes another way and half of which it keeps for later."""
    torch.manual_seed(seed)
    ours = TorchGenerator(seed)
    for shape in shapes:
        np.testing.assert_allclose(ours.normal(shape), torch.randn(*shape).numpy(), atol=2e-6)


def test_equal_seeds_are_equal_and_others_differ():
    def first(seed: int) -> np.ndarray:
        return TorchGenerator(seed).normal((4, 100))

    np.testing.assert_array_equal(first(7), first(7))
    assert np.abs(first(7) - first(8)).max() > 1


@pytest.mark.parametrize("role", ["init", "mask_decoder"])
def test_an_item_gets_what_it_would_get_alone(role: str):
    together = PerItem([3, 5]).draw(role, (2, 8, 30))
    np.testing.assert_array_equal(together[1:], PerItem([5]).draw(role, (1, 8, 30)))
