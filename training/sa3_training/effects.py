"""Sounds without notes: sweeps, sirens, machines, weather. An effect is one function and one line of the table."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sa3_training import captions, drums, synth, tones
from sa3_training.sketch import Draw, Kind, Sketch
from sa3_training.synth import Array
from sa3_training.truths import Check, Moves, Noisy, Share

SWEEPS = ("sweep", "noise sweep", "riser")
LOWEST_HZ, HIGHEST_HZ = 120.0, 4000.0
SWEEP_SECONDS = (0.5, 2.0, 4.0, 8.0, 16.0)
NOISE_SEED = 4
SIREN_SECONDS = 88 * synth.UNIT / synth.RATE  # from low to low: 22 latents


def sweep_checks(*, up: bool) -> tuple[Check, ...]:
    return (Moves(up),)


def _path(count: int, *, up: bool) -> Array:
    rise = np.linspace(0, 1, count, dtype=np.float32)
    return np.float32(LOWEST_HZ) * np.float32(HIGHEST_HZ / LOWEST_HZ) ** (rise if up else 1 - rise)


def _swept_noise(hz: Array) -> Array:
    """Noise of a narrow band, carried along a path: two carriers in quadrature leave no mirror image."""
    rng = np.random.default_rng(NOISE_SEED)  # a whoosh is a whoosh: no two of a length differ
    still, turned = (synth.noise(rng, len(hz), synth.band(1, 120)) for _ in range(2))
    phase = synth.glide(hz)
    return still * synth.sine(phase) + turned * synth.sine(phase + np.float32(0.25))


def _riser(hz: Array, *, up: bool) -> Array:
    """A saw that swells towards the end it is named for, or away from it."""
    lower = hz * np.float32(0.4)
    swell = np.linspace(0.25, 1, len(hz), dtype=np.float32)
    return synth.periodic(synth.glide(lower), tones.SAW[:8], float(lower.max())) * (swell if up else swell[::-1])


def _sweep(draw: Draw) -> Sketch:
    what, up = draw.pick(SWEEPS), bool(draw.rng.integers(2))

    def wave() -> Array:
        # As much as there is room for of one of a few: a sweep for every tenth of a second would be many to learn.
        seconds = min(s for s in SWEEP_SECONDS if synth.samples(s) >= draw.sounding)
        hz = _path(synth.samples(seconds), up=up)
        if what == "noise sweep":
            swept = _swept_noise(hz)
        else:
            swept = _riser(hz, up=up) if what == "riser" else synth.sine(synth.glide(hz))
        return synth.padded(synth.faded(swept[: draw.sounding], 0.02, 0.04), draw.count)

    return Sketch(
        key=f"{what} {up}",
        phrase=captions.sweep(draw.rng, what, up=up),
        wave=wave,
        checks=sweep_checks(up=up) + draw.lasts,
    )


def _beeping(draw: Draw) -> Array:
    beep = drums.drum("beep")
    times = draw.sounding // drums.REPEAT_SAMPLES + 1
    return synth.placed([(i * drums.REPEAT_SAMPLES, beep) for i in range(times)], draw.sounding)


def _siren(draw: Draw) -> Array:
    swing = -np.cos(2 * np.pi * synth.cycles(1 / SIREN_SECONDS, draw.sounding))
    # Whole cycles in a swing: it looks the same every time.
    return synth.sine(synth.glide(round(900 * SIREN_SECONDS) / SIREN_SECONDS + 300 * swing))


def _engine(draw: Draw) -> Array:
    pulse = np.float32(0.85) - np.float32(0.15) * synth.sine(synth.cycles(tones.even(12), draw.sounding))
    hz = tones.even(60)
    return synth.periodic(synth.cycles(hz, draw.sounding), tones.SAW[:10], hz) * pulse


def _coloured(shape: synth.Shape) -> Callable[[Draw], Array]:
    return lambda draw: synth.noise(draw.rng, draw.sounding, shape)


def _hissing(**loudness: float) -> Callable[[Draw], Array]:
    return lambda draw: synth.hiss(draw.rng, draw.sounding, **loudness)


def _wind(draw: Draw) -> Array:
    gusts = 0.6 - 0.4 * np.cos(2 * np.pi / 2.5 * synth.clock(draw.sounding))
    return synth.noise(draw.rng, draw.sounding, synth.band(150, 500, 2)) * gusts


def _surf(draw: Draw) -> Array:
    swell = 0.12 + 0.88 * (0.5 - 0.5 * np.cos(2 * np.pi / 4 * synth.clock(draw.sounding))) ** 2
    return synth.hiss(draw.rng, draw.sounding, low=1.0, middle=0.3) * swell


def _applause(draw: Draw) -> Array:
    hands = np.float32(0.3) + np.abs(synth.noise(draw.rng, draw.sounding, synth.band(1, 25)))
    return synth.hiss(draw.rng, draw.sounding, low=1.0, middle=0.4) * hands


@dataclass(frozen=True)
class Effect:
    make: Callable[[Draw], Array]
    words: tuple[str, ...]  # a leading * wants an article
    checks: tuple[Check, ...]


EFFECTS: dict[str, Effect] = {
    "beeping": Effect(
        _beeping, ("beeping", "beeps", "repeated beeps", "*beeping alarm", "*alarm clock", "*alarm", "*repeating beep"),
        (Share(900, 1100, least=0.7),)),
    "siren": Effect(
        _siren, ("*siren", "*police siren", "*alarm siren", "*wailing siren", "*ambulance siren", "siren wailing"),
        (Share(500, 1300, least=0.85), Noisy(noise=False))),
    "engine": Effect(
        _engine, ("*engine", "engine hum", "*engine humming", "*motor", "*running engine", "motor hum", "*car engine",
                  "*idling engine", "*machine humming", "engine noise"),
        (Share(0, 400, least=0.8), Noisy(noise=False))),
}  # fmt: skip
AMBIENCES: dict[str, Effect] = {
    "white noise": Effect(
        _hissing(low=0.56, middle=0.75, high=1.0),
        ("white noise", "static", "radio static", "tv static", "hiss", "noise", "white hiss"),
        (Share(4000, 22050, least=0.6), Noisy())),
    "pink noise": Effect(
        _coloured(lambda hz: np.maximum(hz, 20) ** -0.5), ("pink noise",),
        (Share(0, 4000, least=0.5), Noisy())),
    "brown noise": Effect(
        _coloured(lambda hz: np.maximum(hz, 30) ** -1.0), ("brown noise", "deep brown noise", "brownian noise"),
        (Share(0, 1000, least=0.7), Noisy())),
    "rain": Effect(
        _hissing(low=0.6, middle=1.0, high=0.5),
        ("rain", "rain falling", "steady rain", "rainfall", "heavy rain", "rain on a roof", "*rain shower", "raining"),
        (Share(1500, 12000, least=0.6), Noisy())),
    "wind": Effect(
        _wind, ("wind", "wind blowing", "howling wind", "*gust of wind", "*windy day", "*breeze", "blowing wind"),
        (Share(80, 1200, least=0.7), Noisy())),
    "surf": Effect(
        _surf, ("surf", "ocean waves", "waves", "sea waves", "waves on a beach", "*ocean", "the sea", "*beach",
                "waves crashing"),
        (Share(100, 6000, least=0.6), Noisy())),
    "applause": Effect(
        _applause, ("applause", "*clapping crowd", "*crowd clapping", "*audience clapping", "*audience applauding",
                    "*applauding crowd", "people clapping"),
        (Share(600, 6000, least=0.7), Noisy())),
    "rumble": Effect(
        _coloured(synth.band(30, 100, 3)),
        ("*rumble", "thunder rumble", "*low rumble", "deep rumbling", "*earthquake", "distant thunder"),
        (Share(0, 200, least=0.7),)),
}  # fmt: skip


def _effect(draw: Draw, table: dict[str, Effect]) -> Sketch:
    name = draw.pick(tuple(table))
    effect = table[name]
    return Sketch(
        key=f"effect {name}",
        phrase=captions.effect(draw.rng, effect.words),
        wave=lambda: synth.padded(synth.faded(effect.make(draw), 0.03, 0.05), draw.count),
        checks=effect.checks + draw.lasts,
    )


def _machine(draw: Draw) -> Sketch:
    return _effect(draw, EFFECTS)


def _ambience(draw: Draw) -> Sketch:
    return _effect(draw, AMBIENCES)


KINDS = (
    Kind(name="sweep", weight=6, practice=1.5, sketch=_sweep, lengths=True),
    Kind(name="machine", weight=3, sketch=_machine, seconds=(3.0, 6.0)),
    Kind(name="ambience", weight=7, sketch=_ambience, lengths=True),
)
