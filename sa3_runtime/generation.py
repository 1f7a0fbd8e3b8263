"""What a request became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from sa3_engines.errors import InvalidRequest
from sa3_runtime.adapters import Loaded
from sa3_runtime.audio import Sound
from sa3_runtime.finish import Report
from sa3_runtime.request import Plan

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What came out, and what is needed to make it again."""

    sounds: list[Sound]
    reports: list[Report]
    latents: Array
    plan: Plan
    seconds_spent: Mapping[str, float]
    warnings: list[str]
    adapters: Sequence[Loaded] = ()  # with the strengths they had

    @property
    def audio(self) -> Array:
        """(items, channels, samples). Items of unlike durations are as long as the longest, padding included."""
        return np.stack([sound.samples for sound in self._heard()])

    def clip(self, index: int) -> Sound:
        """One item as a file holds it: items of unlike durations come as long as the longest, with its padding."""
        made, asked = len(self._heard()), cast(Any, index)  # what a caller passed, whatever the annotation says
        if not isinstance(asked, int | np.integer) or not -made <= asked < made:
            raise InvalidRequest(f"there is no clip {index!r}; this request made {made}, numbered from 0")
        sound = self.sounds[index]
        if not self.plan.request.truncate or len(set(self.plan.seconds)) == 1:
            return sound
        return Sound(sound.samples[:, : int(self.plan.seconds[index] * sound.rate)], sound.rate)

    def _heard(self) -> list[Sound]:
        if not self.sounds:
            raise InvalidRequest("this request stopped at its latents (decode=False): there is no audio")
        return self.sounds
