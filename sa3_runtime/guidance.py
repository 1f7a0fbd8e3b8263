"""Classifier-free guidance: from the velocities with and without the prompt to the one that is followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
F = np.float32


@dataclass(frozen=True, kw_only=True)
class Guidance:
    scale: float = 1.0
    apg_scale: float = 1.0  # 1: only the part of the difference across the prediction; 0: all of it
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    norm_threshold: float = 0.0

    def active(self, t: Array) -> bool:
        """The first item decides for the batch, as in the reference."""
        return self.scale != 1.0 and self.interval[0] <= float(t[0]) <= self.interval[1]

    def combine(self, x: Array, t: Array, with_prompt: Array, without: Array, valid: Array | None) -> Array:
        """valid (items, frames): what counts in norms; None when all does."""
        level = t[:, None, None]
        mask = None if valid is None else valid[:, None].astype(np.float32)
        prediction = x - level * with_prompt
        # The difference of the predictions over t. Taking it from the velocities spares a division by t, which near
        # t = 0 magnifies rounding a hundred thousand times.
        difference = without - with_prompt
        if self.norm_threshold > 0:
            norm = level * _norm(difference if mask is None else mask * difference)
            difference = difference * np.minimum(F(1), F(self.norm_threshold) / norm)
        v = with_prompt - F(self.scale - 1) * self._projected(prediction, difference, mask)
        if self.rescale:
            factor = np.std(with_prompt, axis=1, ddof=1, keepdims=True) / np.std(v, axis=1, ddof=1, keepdims=True)
            v = F(self.rescale) * v * factor + F(1 - self.rescale) * v
        return v

    def _projected(self, prediction: Array, difference: Array, mask: Array | None) -> Array:
        if self.apg_scale == 0:
            return difference
        masked = prediction if mask is None else mask * prediction
        unit = masked / np.maximum(_norm(masked), F(1e-12 if mask is None else 1e-8))
        across = difference - np.sum(difference * unit, axis=(1, 2), keepdims=True) * unit
        if mask is not None:
            across = across * mask
        return across if self.apg_scale == 1 else F(self.apg_scale) * across + F(1 - self.apg_scale) * difference


def _norm(x: Array) -> Array:
    return np.sqrt(np.sum(x * x, axis=(1, 2), keepdims=True))
