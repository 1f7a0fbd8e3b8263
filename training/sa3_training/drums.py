"""Percussion: hits and the patterns made of them. A hit is one function and one line of the table under it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sa3_training import captions, synth
from sa3_training.sketch import Draw, Kind, Sketch
from sa3_training.synth import Array, band, decay, samples
from sa3_training.truths import Check, Count, Lasts, Noisy, Share, Tempo

SEED = 3  # a caption that says `kick` says nothing of which, so each drum is always the same
REPEAT_SAMPLES = 24 * synth.UNIT  # 0.56 s, six latents: every hit of a row looks the same


def _noise(count: int, low: float, high: float) -> Array:
    return synth.noise(np.random.default_rng(SEED), count, band(low, high)) / np.float32(3.5)


def _hiss(count: int, **loudness: float) -> Array:
    return synth.hiss(np.random.default_rng(SEED), count, **loudness)


def _drop(count: int, start_hz: float, end_hz: float, seconds: float) -> Array:
    return synth.sine(synth.glide(end_hz + (start_hz - end_hz) * decay(count, seconds)))


def _kick() -> Array:
    count = samples(0.45)
    return _drop(count, 170, 50, 0.035) * decay(count, 0.13)


def _snare() -> Array:
    count = samples(0.3)
    body = _drop(count, 230, 180, 0.02) * decay(count, 0.05)
    return 0.5 * body + _noise(count, 900, 9000) * decay(count, 0.07)


def _clap() -> Array:
    count, strike = samples(0.3), samples(0.011)
    burst = _noise(count, 900, 2600)
    strikes = [(samples(at), burst[:strike] * decay(strike, 0.005)) for at in (0.0, 0.011, 0.022)]
    return synth.placed([*strikes, (samples(0.033), burst * decay(count, 0.06))], count)


def _closed_hat() -> Array:
    count = samples(0.12)
    return _hiss(count, high=1.0) * decay(count, 0.025)


def _open_hat() -> Array:
    count = samples(0.6)
    return _hiss(count, high=1.0) * decay(count, 0.16)


def _tom() -> Array:
    count = samples(0.6)
    return _drop(count, 150, 105, 0.08) * decay(count, 0.17)


def _cymbal() -> Array:
    count = samples(2.2)
    return _hiss(count, middle=0.7, high=1.0) * decay(count, 0.6)


def _click() -> Array:
    count = samples(0.08)
    return synth.sine(synth.cycles(1600, count)) * decay(count, 0.012)


def _beep() -> Array:
    return synth.faded(synth.sine(synth.cycles(1000, samples(0.2))), 0.005, 0.01)


@dataclass(frozen=True)
class Hit:
    make: Callable[[], Array]
    words: tuple[str, ...]
    checks: tuple[Check, ...]


HITS: dict[str, Hit] = {
    "kick": Hit(_kick, ("kick", "kick drum", "bass drum", "deep kick", "kick hit", "punchy kick", "kick sample"),
                (Share(0, 200, least=0.6), Lasts(0.08, 0.8))),
    "snare": Hit(_snare, ("snare", "snare drum", "snare hit", "crisp snare", "snare sample", "snare drum hit"),
                 (Share(800, 12000, least=0.4), Share(0, 200, most=0.45), Lasts(0.05, 0.5))),
    "clap": Hit(_clap, ("clap", "hand clap", "handclap", "clap sample", "clap of the hands"),
                (Share(600, 4500, least=0.7), Noisy(), Lasts(0.05, 0.5))),
    "closed hat": Hit(_closed_hat, ("closed hi-hat", "hi-hat", "hihat", "hi hat", "closed hat", "tight hi-hat", "hat"),
                      (Share(4000, 22050, least=0.7), Lasts(0.02, 0.3))),
    "open hat": Hit(_open_hat, ("open hi-hat", "open hat", "open hihat", "open hi hat"),
                    (Share(4000, 22050, least=0.7), Lasts(0.3, 1.0))),
    "tom": Hit(_tom, ("tom", "tom drum", "tom-tom", "low tom", "floor tom", "tom hit"),
               (Share(70, 260, least=0.6), Lasts(0.1, 0.9))),
    "cymbal": Hit(_cymbal, ("cymbal", "crash cymbal", "crash", "cymbal crash", "ride cymbal", "cymbal hit"),
                  (Share(3000, 22050, least=0.7), Lasts(0.9, 3.0))),
    "click": Hit(_click, ("click", "metronome click", "tick", "clock tick", "stick click"),
                 (Share(800, 3000, least=0.6), Lasts(0.01, 0.2))),
    "beep": Hit(_beep, ("beep", "short beep", "electronic beep", "computer beep", "bleep"),
                (Share(900, 1100, least=0.7), Count(1), Lasts(0.1, 0.4))),
}  # fmt: skip
COUNTED = {"kick": ("kick", "kick drum"), "snare": ("snare", "snare hit"), "clap": ("clap", "hand clap"),
           "click": ("click", "tick"), "beep": ("beep", "bleep")}  # fmt: skip


@lru_cache
def drum(name: str) -> Array:
    """A hit with a peak of one."""
    wave = synth.faded(HITS[name].make(), 0.001, 0.02)
    return wave / np.abs(wave).max()


def _hit(draw: Draw) -> Sketch:
    name = draw.pick(tuple(HITS))
    return Sketch(
        key=f"hit {name}",
        phrase=captions.hit(draw.rng, HITS[name].words),
        wave=lambda: synth.padded(drum(name), draw.count),
        checks=HITS[name].checks,
    )


def repeated_checks(name: str, times: int) -> tuple[Check, ...]:
    return (Count(times), HITS[name].checks[0])


def _repeated(draw: Draw) -> Sketch:
    name, times = draw.pick(tuple(COUNTED)), int(draw.rng.integers(2, 5))
    return Sketch(
        key=f"times {name} {times}",
        phrase=captions.repeated(draw.rng, COUNTED[name], times),
        wave=lambda: synth.placed([(i * REPEAT_SAMPLES, drum(name)) for i in range(times)], draw.count),
        checks=repeated_checks(name, times),
    )


@dataclass(frozen=True)
class Pattern:
    """A bar of four beats. `plain` is one sound a beat and nothing between, so its tempo has one reading."""

    hits: tuple[tuple[str, float, tuple[float, ...]], ...]  # which, how loud, and on what beats
    words: tuple[str, ...]
    plain: bool = False


BEATS, HALVES = (0, 1, 2, 3), (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)
PATTERNS: dict[str, Pattern] = {
    "kicks": Pattern(
        (("kick", 1.0, BEATS),),
        ("kick loop", "four on the floor kick", "kick drum on every beat", "steady kick", "kick drum loop",
         "four-on-the-floor kick drum", "kick on each beat", "kick beat"), plain=True),
    "snares": Pattern(
        (("snare", 1.0, BEATS),),
        ("snare loop", "snare on every beat", "snare on each beat", "steady snare", "repeated snare drum"), plain=True),
    "claps": Pattern(
        (("clap", 1.0, BEATS),),
        ("clap loop", "claps on every beat", "steady clapping", "hand claps on each beat", "rhythmic clapping"),
        plain=True),
    "clicks": Pattern(
        (("click", 1.0, BEATS),),
        ("metronome", "metronome clicks", "click track", "ticking metronome", "steady clicks"), plain=True),
    "hats": Pattern(
        (("closed hat", 1.0, HALVES),),
        ("hi-hat loop", "hi-hat pattern", "hi-hats", "hihat loop", "hi-hat groove", "hi-hat rhythm")),
    "backbeat": Pattern(
        (("kick", 1.0, (0, 2)), ("snare", 0.8, (1, 3))),
        ("kick and snare loop", "kick and snare beat", "kick snare pattern", "simple drum beat", "hip hop beat",
         "boom bap beat", "kick and snare")),
    "rock": Pattern(
        (("kick", 1.0, (0, 2)), ("snare", 0.8, (1, 3)), ("closed hat", 0.3, HALVES)),
        ("drum loop", "drum beat", "rock beat", "rock drums", "drums", "beat", "drum pattern", "rock drum loop",
         "drum groove", "drum kit playing", "drum rhythm")),
    "house": Pattern(
        (("kick", 1.0, BEATS), ("clap", 0.6, (1, 3)), ("open hat", 0.3, (0.5, 1.5, 2.5, 3.5))),
        ("house beat", "techno beat", "dance beat", "house drum loop", "techno drums", "edm beat", "house loop",
         "house drums", "techno loop", "dance drums")),
}  # fmt: skip


def loop_checks(pattern: str, bpm: float) -> tuple[Check, ...]:
    return (Tempo(bpm, strict=PATTERNS[pattern].plain),)


def _looped(pattern: str, bpm: float, count: int) -> Array:
    units = synth.beat(bpm) // synth.UNIT
    bars = count // (4 * units * synth.UNIT) + 1
    pieces = [
        (int((4 * bar + at) * units) * synth.UNIT, drum(name) * np.float32(loudness))
        for bar in range(bars)
        for name, loudness, beats in PATTERNS[pattern].hits
        for at in beats
    ]
    return synth.placed(pieces, count)


def _loop(draw: Draw) -> Sketch:
    pattern = draw.pick(tuple(PATTERNS))
    phrase, bpm, named = captions.loop(draw.rng, PATTERNS[pattern].words)
    return Sketch(
        key=f"loop {pattern} {'' if named else bpm}",
        combined=not named,
        phrase=phrase,
        wave=lambda: _looped(pattern, bpm, draw.count),
        checks=loop_checks(pattern, bpm),
    )


KINDS = (
    Kind(name="hit", weight=13, sketch=_hit, seconds=(1.0, 4.0)),
    Kind(name="repeated", weight=3, sketch=_repeated, seconds=(2.5, 4.0)),
    Kind(name="loop", weight=18, practice=3.5, sketch=_loop, seconds=(4.0, 8.0)),
)
