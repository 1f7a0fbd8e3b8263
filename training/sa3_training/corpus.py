"""Examples to train and test on: a seed becomes a caption, its sound, and what is true of it."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sa3_training import captions as words_of
from sa3_training import sounds, synth
from sa3_training.measures import Samples
from sa3_training.sketch import Colour, Draw, Kind, Length, Sketch
from sa3_training.truths import Check, Level, Pan, Truth

HELD_SHARE = 0.08
SPLITS = {"train": 0, "held": 1}
PEAKS = {"loud": 0.75, "": 0.4, "quiet": 0.12}
FAR_SIDE = 0.1
LONG_SECONDS = 4.0
TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Example:
    caption: str
    audio: Samples  # (2, n) at 44.1 kHz
    seconds: float
    truth: Truth
    practice: float  # how much more often than others to train on it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of an example but its samples."""

    caption: str
    sketch: Sketch
    seconds: float
    level: str
    side: str
    held: bool
    practice: float

    @property
    def truth(self) -> Truth:
        checks: tuple[Check, ...] = self.sketch.checks
        if self.level:
            checks += (Level(self.level),)
        if self.side:
            checks += (Pan(self.side),)
        return Truth(checks)


def example(seed: int, split: str = "train") -> Example:
    """The same seed gives the same example. `held` are the combinations that `train` never has."""
    planned = plan(seed, split)
    wave = planned.sketch.wave().astype(np.float32, copy=False)
    loudest = float(np.abs(wave).max(initial=0))
    if loudest:
        wave = wave * np.float32(PEAKS[planned.level] / loudest)
    audio = np.stack([wave, wave])
    if planned.side in ("left", "right"):
        audio[1 if planned.side == "left" else 0] *= np.float32(FAR_SIDE)
    return Example(
        caption=planned.caption,
        audio=audio,
        seconds=len(wave) / synth.RATE,
        truth=planned.truth,
        practice=planned.practice,
    )


def captions(count: int, split: str = "train") -> Iterator[str]:
    """The captions of the first `count` examples, without their sounds."""
    return (plan(seed, split).caption for seed in range(count))


def plan(seed: int, split: str = "train") -> Plan:
    wanted = SPLITS[split]
    rng = np.random.default_rng((wanted, seed))
    weights = np.array([kind.weight for kind in sounds.KINDS])
    kind = sounds.KINDS[0]
    for attempt in range(10 * TRIES):
        if attempt % TRIES == 0:  # a kind with nothing held out gives way to another
            kind = sounds.KINDS[int(rng.choice(len(weights), p=weights / weights.sum()))]
        planned = _plan(rng, kind)
        if planned.held == bool(wanted):
            return planned
    raise RuntimeError(f"no example for seed {seed} of {split}: every combination drawn belongs to the other split")


def _plan(rng: np.random.Generator, kind: Kind) -> Plan:
    length: Length = ""
    colour: Colour = ""
    if kind.lengths and rng.random() < 0.16:
        length = "short" if rng.random() < 0.6 else "long"
    if kind.colours and rng.random() < 0.16:
        colour = "bright" if rng.random() < 0.5 else "dark"
    level = ("loud", "quiet")[int(rng.integers(2))] if rng.random() < 0.18 else ""
    side = ("left", "right", "left", "right", "centre")[int(rng.integers(5))] if rng.random() < 0.18 else ""
    seconds = _seconds(rng, kind, long=length == "long")
    sketch = kind.sketch(Draw(rng=rng, seconds=seconds, length=length, colour=colour))
    words = [word for word in (length, colour if sketch.coloured else "", level) if word]
    text = words_of.caption(rng, sketch.phrase, words, side)
    return Plan(
        caption=text,
        sketch=sketch,
        seconds=seconds,
        level=level,
        side=side,
        held=_is_held(sketch, [*words, side]),
        practice=kind.practice,
    )


def _is_held(sketch: Sketch, words: list[str]) -> bool:
    """By a hash of the combination. A sound that is none, a plain kick, is always trained on."""
    if sketch.combined:
        return _held(sketch.key)
    return any(words) and _held(" ".join([sketch.key, *sorted(filter(None, words))]))


def _seconds(rng: np.random.Generator, kind: Kind, *, long: bool) -> float:
    """Mostly what suits the kind, sometimes anything up to ten; in tenths, as people say it."""
    low, high = kind.seconds
    if rng.random() < 0.15:
        high = 10.0
    if long:
        low = max(low, LONG_SECONDS)
        high = max(high, low)
    return round(float(rng.uniform(low, high)), 1)


def _held(key: str) -> bool:
    return zlib.crc32(key.encode()) % 1000 < 1000 * HELD_SHARE
