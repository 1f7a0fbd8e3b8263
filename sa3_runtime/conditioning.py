"""Prompts and durations to what the transformer attends to.

A prompt is padded to its full length with one learned vector, so its padded positions are one key and one value that
count many times over: one of them, with the logarithm of the count added to its score, gives the same attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sa3_engines import graphs, tables
from sa3_engines.adapters import SECONDS, ActiveAdapter, Merger
from sa3_engines.engine import Engine
from sa3_engines.errors import BadOutput

Array = np.ndarray


@dataclass(frozen=True)
class Context:
    """What cross-attention sees: tokens (items, n, width) and what is added to their scores (items, n)."""

    tokens: Array
    bias: Array

    def widened(self, length: int) -> Context:
        missing = length - self.tokens.shape[1]
        return Context(
            np.pad(self.tokens, ((0, 0), (0, missing), (0, 0))),
            np.pad(self.bias, ((0, 0), (0, missing)), constant_values=graphs.MASKED),
        )

    def over(self, other: Context) -> Context:
        """Both as one batch, this one first."""
        length = max(self.tokens.shape[1], other.tokens.shape[1])
        a, b = self.widened(length), other.widened(length)
        return Context(np.concatenate((a.tokens, b.tokens)), np.concatenate((a.bias, b.bias)))


class Conditioner:
    """Applies the conditioners' own weights, with adapters where there are any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._weights = engine.constants()
        self._merger = Merger()

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """The conditioner modules that adapters may change."""
        rows, columns = self._weights["seconds.weight"].shape
        return {SECONDS: (rows, columns)}

    def seconds(self, seconds: Array, adapters: list[ActiveAdapter] | None = None) -> Array:
        """(items,) to (items, width)."""
        low, high = self._engine.config.seconds_min, self._engine.config.seconds_max
        share = (np.clip(seconds.astype(np.float32), low, high) - np.float32(low)) / np.float32(high - low)
        weight, bias = self._weights["seconds.weight"], self._weights["seconds.bias"]
        if adapters:
            merged = self._merger.weight(SECONDS, weight, adapters)
            weight = weight if merged is None else merged
        return tables.fourier_features(share, weight.shape[1]) @ weight.T + bias

    def hidden(self, ids: Array, mask: Array) -> Array:
        """The text encoder over the real tokens only: padded ones are masked inside it and replaced afterwards."""
        config = self._engine.config.text
        assert config is not None
        used = int(np.max(np.nonzero(mask.any(axis=0))[0], initial=-1)) + 1
        if used == 0:
            return np.zeros((len(ids), 0, config.width), np.float32)
        hidden = self._engine.run("text", graphs.text(config, ids[:, :used], mask[:, :used]))["hidden"]
        if not np.isfinite(hidden).all():
            raise BadOutput("the text encoder", "NaN or infinity")
        return hidden

    def context(self, ids: Array, mask: Array, seconds: Array, *, negative: bool = False) -> Context:
        """ids and mask (items, max_tokens), seconds (items, width) the embedded durations.

        Padded positions of a negative prompt are zero vectors and not the learned one, as in the reference.
        """
        hidden = self.hidden(ids, mask)
        items, used, width = hidden.shape
        real = mask[:, :used] > 0
        padding = np.zeros(width, np.float32) if negative else self._weights["padding_embedding"]
        padded = mask.shape[1] - mask.astype(bool).sum(axis=1)
        tokens = np.concatenate((hidden, np.broadcast_to(padding, (items, 1, width)), seconds[:, None]), axis=1)
        with np.errstate(divide="ignore"):
            counts = np.maximum(np.log(padded.astype(np.float32)), graphs.MASKED)[:, None]
        bias = np.concatenate((np.where(real, 0, graphs.MASKED), counts, np.zeros((items, 1))), axis=1)
        return Context(tokens.astype(np.float32), bias.astype(np.float32))


def without_prompt(items: int, width: int) -> Context:
    """No negative prompt: zero vectors everywhere. All keys are alike, so one stands for all."""
    return Context(np.zeros((items, 1, width), np.float32), np.zeros((items, 1), np.float32))


def local_conditioning(mask: Array, latents: Array) -> Array:
    """mask (items or 1, 1, frames), 1 where kept; latents (items or 1, channels, frames)."""
    items = max(len(mask), len(latents))
    mask = np.broadcast_to(mask, (items, *mask.shape[1:]))
    return np.concatenate((mask, latents * mask), axis=1).astype(np.float32)
