"""What a caption promises, as checks that a sound passes or fails. Every check is one measurement and a bound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sa3_training import measures
from sa3_training.measures import Samples

CENTS = 50.0
TEMPO_ERROR = 0.04


class Check(Protocol):
    @property
    def property(self) -> str: ...

    def passes(self, audio: Samples) -> bool: ...


@dataclass(frozen=True)
class Truth:
    checks: tuple[Check, ...] = ()

    def judge(self, audio: Samples) -> Mapping[str, bool]:
        """Pass or fail by property; a property with several checks passes when all do."""
        results: dict[str, bool] = {}
        for check in self.checks:
            results[check.property] = results.get(check.property, True) and bool(check.passes(audio))
        return results

    def passes(self, audio: Samples) -> bool:
        return all(check.passes(audio) for check in self.checks)


def cents(found_hz: float, wanted_hz: float) -> float:
    return 1200 * math.log2(found_hz / wanted_hz) if found_hz > 0 and wanted_hz > 0 else math.inf


@dataclass(frozen=True)
class Pitch:
    """The note, and its octave: an octave off is a failure."""

    hz: float
    property: str = "pitch"

    def passes(self, audio: Samples) -> bool:
        return abs(cents(measures.fundamental(audio), self.hz)) < CENTS


@dataclass(frozen=True)
class PitchClass:
    """The note's name, in any octave. Easier than `Pitch`; told apart in tables."""

    hz: float
    property: str = "note name"

    def passes(self, audio: Samples) -> bool:
        off = cents(measures.fundamental(audio), self.hz)
        return math.isfinite(off) and abs((off + 600) % 1200 - 600) < CENTS


@dataclass(frozen=True)
class Chord:
    """The three strongest pitch classes are those of the chord."""

    classes: frozenset[int]
    property: str = "chord"

    def passes(self, audio: Samples) -> bool:
        energy = measures.chroma(audio)
        strongest = frozenset(int(i) for i in energy.argsort()[-len(self.classes) :])
        return energy.max() > 0 and strongest == self.classes and measures.noisiness(audio) < 0.4


@dataclass(frozen=True)
class Tempo:
    """Beats a minute within 4 %. Patterns with sounds between the beats may read as double or half."""

    bpm: float
    strict: bool
    property: str = "tempo"

    def passes(self, audio: Samples) -> bool:
        found = measures.tempo(audio)
        allowed = (1.0,) if self.strict else (0.5, 1.0, 2.0)
        return any(abs(found / (self.bpm * factor) - 1) < TEMPO_ERROR for factor in allowed)


@dataclass(frozen=True)
class Pan:
    side: str  # left, right, centre
    property: str = "pan"

    def passes(self, audio: Samples) -> bool:
        leans = measures.pan_db(audio)
        return {"left": leans > 6, "right": leans < -6, "centre": abs(leans) < 3}[self.side]


@dataclass(frozen=True)
class Level:
    """How loud on its own; what a pair of prompts differs by is in `quality`."""

    level: str  # loud, quiet
    property: str = "level"

    def passes(self, audio: Samples) -> bool:
        found = measures.peak(audio)
        return found > 0.42 if self.level == "loud" else measures.SILENCE < found < 0.25


@dataclass(frozen=True)
class Lasts:
    """Seconds from the start of sound to its end, however much silence follows."""

    least: float = 0.0
    most: float = math.inf
    property: str = "length"

    def passes(self, audio: Samples) -> bool:
        start, end = measures.active_span(audio)
        return end > 0 and self.least <= end - start <= self.most


@dataclass(frozen=True)
class Share:
    """How much of the energy lies in a band."""

    low_hz: float
    high_hz: float
    least: float = 0.0
    most: float = 1.0
    property: str = "spectrum"

    def passes(self, audio: Samples) -> bool:
        return measures.rms(audio) > 0.1 * measures.SILENCE and (
            self.least <= measures.share(audio, self.low_hz, self.high_hz) <= self.most
        )


@dataclass(frozen=True)
class Centroid:
    """Where the energy lies on average, in Hz."""

    low_hz: float = 0.0
    high_hz: float = math.inf
    property: str = "colour"

    def passes(self, audio: Samples) -> bool:
        return measures.rms(audio) > 0.1 * measures.SILENCE and (
            self.low_hz <= measures.centroid(audio) <= self.high_hz
        )


@dataclass(frozen=True)
class Moves:
    """Pitch or brightness goes up or down over the sound."""

    up: bool
    octaves: float = 0.7
    property: str = "direction"

    def passes(self, audio: Samples) -> bool:
        steadiness, moved = measures.direction(audio)
        sign = 1 if self.up else -1
        return steadiness * sign > 0.6 and moved * sign > self.octaves


@dataclass(frozen=True)
class Noisy:
    noise: bool = True
    property: str = "noise or tone"

    def passes(self, audio: Samples) -> bool:
        if measures.rms(audio) < 0.1 * measures.SILENCE:
            return False
        found = measures.noisiness(audio)
        return found > 0.35 if self.noise else found < 0.25


@dataclass(frozen=True)
class Count:
    """How many separate sounds."""

    count: int
    property: str = "count"

    def passes(self, audio: Samples) -> bool:
        return measures.count_onsets(audio) == self.count
