"""The corpus as latents, in shards: several processes may make them, each shard is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from sa3_engines.config import ModelConfig
from sa3_training import autoencoding, corpus, tokens
from sa3_training.architecture import RATIO
from stable_audio_3.networks.same import SAME

SHARD, TAIL = 250, 4  # examples of a shard; latents of silence after each sound, until it has faded for certain
Array = np.ndarray
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Dataset:
    """Latents of all clips one after the other, (frames, channels) float16, and where each begins."""

    flat: Array
    starts: Array
    lengths: Array
    ids: Array
    seconds: Array
    practice: Array  # how often to draw it, relative to the others
    silence: Array  # (2, channels): how silence looks in the two places of a chunk

    def __len__(self) -> int:
        return len(self.lengths)

    def canvas(self, index: int, frames: int) -> Array:
        """(frames, channels) float32: the clip, then silence."""
        made = np.tile(self.silence.astype(np.float32), (frames // 2 + 1, 1))[:frames]
        start, length = int(self.starts[index]), min(int(self.lengths[index]), frames)
        made[:length] = self.flat[start : start + length]
        return made


def shard_path(folder: Path, index: int) -> Path:
    return folder / "latents" / f"{index:05d}.npz"


@torch.no_grad()
def encode(same: SAME, model: ModelConfig, audio: Array) -> Array:
    """audio (2, n) to (latents, channels) float16; what is beyond n is silence."""
    frames = -(-audio.shape[1] // RATIO) + TAIL
    frames += frames % 2
    padded = np.pad(audio, ((0, 0), (0, frames * RATIO - audio.shape[1])))
    made = same.encode(torch.from_numpy(padded)[None], autoencoding.rope(model, frames))
    return made[0].T.numpy().astype(np.float16)


def write_shard(folder: Path, index: int, same: SAME, model: ModelConfig, tokenizer: Tokenizer) -> None:
    path = shard_path(folder, index)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    examples = [corpus.example(seed) for seed in range(index * SHARD, (index + 1) * SHARD)]
    pieces = [encode(same, model, example.audio) for example in examples]
    held = io.BytesIO()
    np.savez(
        held,
        flat=np.concatenate(pieces),
        lengths=np.array([len(piece) for piece in pieces]),
        ids=tokens.table(tokenizer, [example.caption for example in examples]),
        seconds=np.array([example.seconds for example in examples], np.float32),
        practice=np.array([example.practice for example in examples], np.float32),
        silence=encode(same, model, np.zeros((2, 6 * RATIO), np.float32))[2:4],
    )
    partial = path.with_suffix(".partial")
    partial.write_bytes(held.getvalue())
    partial.replace(path)


def write(
    folder: Path,
    shards: Sequence[int],
    same: SAME,
    model: ModelConfig,
    tokenizer: Tokenizer,
    tick: Tick = lambda done, of: None,
) -> None:
    for count, index in enumerate(shards):
        write_shard(folder, index, same, model, tokenizer)
        tick(count + 1, len(shards))


def read(folder: Path, shards: int) -> Dataset:
    """The first `shards` of them."""
    parts = [np.load(shard_path(folder, index)) for index in range(shards)]
    lengths = np.concatenate([part["lengths"] for part in parts])
    return Dataset(
        flat=np.concatenate([part["flat"] for part in parts]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        ids=np.concatenate([part["ids"] for part in parts]),
        seconds=np.concatenate([part["seconds"] for part in parts]),
        practice=np.concatenate([part["practice"] for part in parts]),
        silence=parts[0]["silence"],
    )
