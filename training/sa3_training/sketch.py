"""What a kind of sound is to the corpus: drawn from dice, it says its words, its wave and what is true of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from sa3_training import synth
from sa3_training.captions import Phrase
from sa3_training.synth import Array
from sa3_training.truths import Check, Lasts

T = TypeVar("T")
Length = Literal["", "short", "long"]
Colour = Literal["", "bright", "dark"]
SHORT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is decided before the sound is: the clip's length, and the adjectives the sound itself must obey."""

    rng: np.random.Generator
    seconds: float
    length: Length = ""
    colour: Colour = ""

    @property
    def count(self) -> int:
        return synth.samples(self.seconds)

    @property
    def sounding(self) -> int:
        """Samples of a sound that goes on until it is stopped."""
        return min(self.count, synth.samples(SHORT_SECONDS)) if self.length == "short" else self.count

    @property
    def lasts(self) -> tuple[Check, ...]:
        if self.length == "short":
            return (Lasts(0.15, 0.75),)
        return (Lasts(0.7 * self.seconds),) if self.length == "long" else ()

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """One sound, not made yet. `key` names the combination that is kept for training or held out."""

    key: str
    phrase: Phrase
    wave: Callable[[], Array]
    checks: tuple[Check, ...]
    combined: bool = False  # the key is a combination by itself, whatever adjectives come with it
    coloured: bool = False  # bright or dark was obeyed


@dataclass(frozen=True, kw_only=True)
class Kind:
    name: str
    weight: float  # how often it is asked for, relative to the others
    sketch: Callable[[Draw], Sketch]
    seconds: tuple[float, float] = (2.0, 6.0)
    lengths: bool = False  # may be short or long
    colours: bool = False  # may be bright or dark
    practice: float = 1.0  # how much more often the transformer sees it: some are harder to learn than others
