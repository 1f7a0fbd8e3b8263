"""Crops of the corpus on disk for the autoencoder: made once, in shards that several processes may share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sa3_training import corpus
from sa3_training.architecture import RATIO

LATENTS = 8  # of a crop
SAMPLES = LATENTS * RATIO
SHARD = 500
SILENT = 1e-3
Array = np.ndarray
Tick = Callable[[int, int], None]


def crop(seed: int) -> Array:
    """(2, SAMPLES) int16: from the beginning of a clip, where most happens, or from any chunk of it.

    Crops begin where latents do: notes are tuned to come out even over a chunk of two.
    """
    audio = corpus.example(seed).audio
    draw = np.random.default_rng((7, seed))
    last = max(0, audio.shape[1] - SAMPLES // 2) // (2 * RATIO)
    start = int(draw.integers(0, last + 1)) * 2 * RATIO if draw.random() < 0.5 else 0
    if np.abs(audio[:, start : start + SAMPLES]).max(initial=0) < SILENT:
        start = 0
    piece = audio[:, start : start + SAMPLES]
    piece = np.pad(piece, ((0, 0), (0, SAMPLES - piece.shape[1])))
    return np.rint(piece * 32767).astype(np.int16)


def shard_path(folder: Path, index: int) -> Path:
    return folder / "clips" / f"{index:04d}.npy"


def write(folder: Path, shards: Sequence[int], tick: Tick = lambda done, of: None) -> None:
    for count, index in enumerate(shards):
        path = shard_path(folder, index)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = np.stack([crop(seed) for seed in range(index * SHARD, (index + 1) * SHARD)])
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, made)
            partial.replace(path)
        tick(count + 1, len(shards))


class Crops:
    """All shards as one, mapped."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.parts = [np.load(shard_path(folder, index), mmap_mode="r") for index in range(shards)]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Array:
        return self.parts[index // SHARD][index % SHARD]
