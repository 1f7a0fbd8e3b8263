"""The instruments: one function a timbre, from a note and a length to a wave."""

from collections.abc import Callable

import numpy as np

from sa3_training import synth
from sa3_training.synth import Array

LOWEST, HIGHEST = 36, 84  # C2 to C6
TUNINGS = {4096: 20.0, 8192: 35.0, 16384: 35.0, 32768: 50.0}  # samples a whole number of cycles fits, for so many cents
USUAL, FINE, FINEST = 8192, 16384, 32768
Partials = tuple[float, ...]

SINE: Partials = (1.0,)
TRIANGLE: Partials = tuple((-1) ** (k // 2) / (k + 1) ** 2 if k % 2 == 0 else 0.0 for k in range(15))
SQUARE: Partials = tuple(1 / (k + 1) if k % 2 == 0 else 0.0 for k in range(25))
SAW: Partials = tuple(1 / (k + 1) for k in range(24))
BASS: Partials = tuple((k + 1) ** -1.5 for k in range(8))
PAD: Partials = (1.0, 0.45, 0.28, 0.12, 0.08, 0.05)
BELL = ((1.0, 1.0, 1.6), (2.0, 0.5, 1.1), (3.0, 0.3, 0.7), (4.2, 0.22, 0.35), (5.4, 0.12, 0.2))
PLUCK = ((0, 2, 0.9), (2, 5, 0.4), (5, 12, 0.15))  # harmonics from, to, and the seconds they ring


def coloured(partials: Partials, colour: str) -> Partials:
    """More or fewer overtones."""
    if colour == "bright":
        return tuple(a * (k + 1) ** 0.7 for k, a in enumerate(partials))
    if colour == "dark":
        return tuple(a * float(np.exp(-0.7 * k)) for k, a in enumerate(partials))
    return partials


def _steady(partials: Partials) -> Callable[[float, int, str], Array]:
    def make(hz: float, count: int, colour: str) -> Array:
        phase = synth.cycles(hz, count)
        if len(partials) == 1:
            return synth.faded(synth.sine(phase), 0.01, 0.04)
        return synth.faded(synth.periodic(phase, coloured(partials, colour), hz), 0.01, 0.04)

    return make


def bass(midi: float, count: int, start: int) -> Array:
    """A note whose string has been moving since `start` samples before it is heard."""
    return _bass(synth.hertz(midi), count, "", start)


def _bass(hz: float, count: int, colour: str, start: int = 0) -> Array:
    wave = synth.periodic(synth.cycles(hz, count, start), coloured(BASS, colour), hz)
    return synth.faded(wave * (0.35 + 0.65 * synth.decay(count, 0.5)), 0.006, 0.05)


def _pad(hz: float, count: int, colour: str) -> Array:
    partials = coloured(PAD, colour)
    # It breathes, once in eight latents.
    breath = np.float32(1) + np.float32(0.2) * synth.sine(synth.cycles(synth.RATE / FINEST, count))
    wave = synth.periodic(synth.cycles(hz, count), partials, hz) * breath
    length = count / synth.RATE
    return synth.faded(wave, min(0.4, length / 3), min(0.5, length / 3))


def _bell(hz: float, count: int, colour: str) -> Array:
    wave = np.zeros(count, np.float32)
    tilt = {"bright": 0.5, "dark": -1.0}.get(colour, 0.0)
    for ratio, amplitude, seconds in BELL:
        if hz * ratio < synth.HIGHEST_HZ:
            ring = min(count, synth.samples(7 * seconds))
            # Overtones that come out even over a few latents, like the note.
            partial = hz if ratio == 1 else even(hz * ratio, FINE)
            part = synth.sine(synth.cycles(partial, ring)) * synth.decay(ring, seconds)
            wave[:ring] += part * np.float32(amplitude * ratio**tilt)
    return synth.faded(wave, 0.003, 0.05)


def _pluck(hz: float, count: int, colour: str) -> Array:
    wave = np.zeros(count, np.float32)
    saw = coloured(SAW, colour)
    for first, last, seconds in PLUCK:
        if hz * (first + 1) < synth.HIGHEST_HZ:
            ring = min(count, synth.samples(7 * seconds))
            partials = tuple(a if first <= k else 0.0 for k, a in enumerate(saw[:last]))
            weight = sum(abs(a) for a in partials)
            part = synth.periodic(synth.cycles(hz, ring), partials, hz) * synth.decay(ring, seconds)
            wave[:ring] += part * np.float32(weight)
    return synth.faded(wave, 0.003, 0.05)


INSTRUMENTS: dict[str, Callable[[float, int, str], Array]] = {
    "sine": _steady(SINE),
    "triangle": _steady(TRIANGLE),
    "square": _steady(SQUARE),
    "saw": _steady(SAW),
    "bass": _bass,
    "pad": _pad,
    "bell": _bell,
    "pluck": _pluck,
}
RINGING = ("bell", "pluck")  # fade on their own, however long the clip
PLAIN = ("sine", "bell")  # say nothing of bright and dark: there is too little to change


def tone(instrument: str, midi: float, count: int, colour: str = "") -> Array:
    return INSTRUMENTS[instrument](synth.hertz(midi), count, colour)


def even(hz: float, samples: int = USUAL) -> float:
    """The nearest frequency with a whole number of cycles in so many samples."""
    step = synth.RATE / samples
    return max(1, round(hz / step)) * step


def tuned(midi: float) -> float:
    """A pitch nearby whose cycles come out even over one or two latents of the model that learns this, low ones over
    four or eight.

    A steady note then looks the same in all its latents, instead of its phase wandering from one to the next. It costs
    a few cents: a third of a semitone for the worst of the low notes, a tenth at the top.
    """
    found = midi
    for samples, cents in TUNINGS.items():
        found = 12 * float(np.log2(even(synth.hertz(midi), samples) / 440)) + 69
        if abs(found - midi) * 100 <= cents:
            break
    return found


_OVERTONES = {"triangle": TRIANGLE, "square": SQUARE, "saw": SAW, "bass": BASS, "pad": PAD, "pluck": SAW}


def centroid(instrument: str, midi: float) -> float:
    """The mean frequency of a note's energy when it is neither bright nor dark, in Hz."""
    hz = synth.hertz(midi)
    power = [a * a for a in _OVERTONES.get(instrument, SINE)][: max(1, int(synth.HIGHEST_HZ / hz))]
    return hz * sum((k + 1) * p for k, p in enumerate(power)) / sum(power)
