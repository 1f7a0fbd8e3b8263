"""What the flow draws its batches from."""

import numpy as np
import pytest
import torch

from sa3_training import architecture, flow, tokens
from sa3_training.latents import Dataset

ITEMS, FRAMES, CHANNELS = 120, 12, architecture.LATENT_CHANNELS


def dataset(practice: np.ndarray) -> Dataset:
    """Clips of all lengths, each with its own number as its only token."""
    ids = np.zeros((ITEMS, tokens.MAX_TOKENS), np.int16)
    ids[:, 0] = np.arange(1, ITEMS + 1)
    return Dataset(
        flat=np.zeros((ITEMS * FRAMES, CHANNELS), np.float16),
        starts=np.arange(ITEMS) * FRAMES,
        lengths=np.full(ITEMS, FRAMES),
        ids=ids,
        seconds=np.linspace(0.5, 8.0, ITEMS, dtype=np.float32),
        practice=practice.astype(np.float32),
        silence=np.zeros((2, CHANNELS), np.float16),
    )


def drawn(practice: np.ndarray) -> np.ndarray:
    """How often each item is in one of many batches."""
    batches = flow.Batches(dataset(practice), architecture.parsed(), flow.Options(batch=16))
    found = np.zeros(ITEMS)
    for seed in range(400):
        batch = batches.make(torch.Generator().manual_seed(seed))
        np.add.at(found, batch.asked.ids[:, 0].numpy() - 1, 1)
    return found


def test_what_is_hard_is_drawn_as_often_as_it_is_to_be_practised():
    practice = np.where(np.arange(ITEMS) % 3 == 0, 4.0, 1.0)
    found = drawn(practice)
    assert found.min() > 0
    assert found[practice == 4].mean() / found[practice == 1].mean() == pytest.approx(4, rel=0.15)


def test_a_batch_has_clips_of_about_one_length():
    batches = flow.Batches(dataset(np.ones(ITEMS)), architecture.parsed(), flow.Options(batch=16))
    for seed in range(20):
        seconds = batches.make(torch.Generator().manual_seed(seed)).asked.seconds
        assert np.ptp(seconds) < 8.0 / 5
