"""What every sound is made of: periodic tones, noise of a given colour, envelopes. Mono, numpy, no state."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Array = np.ndarray
Shape = Callable[[Array], Array]  # magnitude over frequency in Hz

RATE = 44100
HIGHEST_HZ = 12000.0  # no partial above: room for every vibrato and glide before anything could alias
TABLE = 4096
FADE_SECONDS = 0.02
UNIT = 1024  # samples; beats fall on multiples of it, so that a hit looks one of four ways and a bar ends with a latent


def samples(seconds: float) -> int:
    return round(seconds * RATE)


def beat(bpm: float) -> int:
    """Samples from beat to beat, in whole units: at most 3.4 % off at 180 beats a minute, a third of that at 60."""
    return UNIT * round(60 * RATE / bpm / UNIT)


def clock(count: int) -> Array:
    """Seconds at every sample."""
    return np.arange(count, dtype=np.float32) / np.float32(RATE)


def hertz(midi: float) -> float:
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def cycles(hz: float, count: int, start: int = 0) -> Array:
    """Where in its cycle a steady tone is, 0 to 1. Counted in float64: float32 drifts within a second."""
    return (np.arange(start, start + count) * (hz / RATE) % 1.0).astype(np.float32)


def glide(hz: Array) -> Array:
    """The same for a tone whose frequency moves."""
    return ((np.cumsum(hz, dtype=np.float64) / RATE) % 1.0).astype(np.float32)


def sine(phase: Array) -> Array:
    return np.sin(phase * np.float32(2 * np.pi))


@lru_cache(maxsize=512)
def _table(partials: tuple[float, ...]) -> Array:
    phase = np.arange(TABLE + 1) / TABLE
    wave = sum((a * np.sin(2 * np.pi * (k + 1) * phase) for k, a in enumerate(partials) if a), np.zeros(TABLE + 1))
    return (wave / max(1e-9, np.abs(wave).max())).astype(np.float32)


def periodic(phase: Array, partials: tuple[float, ...], highest_hz: float) -> Array:
    """A wave of these harmonic amplitudes, as many as stay below HIGHEST_HZ for a tone of up to `highest_hz`."""
    kept = max(1, min(len(partials), int(HIGHEST_HZ / highest_hz)))
    table = _table(partials[:kept])
    place = phase * np.float32(TABLE)
    index = place.astype(np.int32)
    np.minimum(index, TABLE - 1, out=index)
    low = table[index]
    return low + (place - index) * (table[index + 1] - low)


def noise(rng: np.random.Generator, count: int, shape: Shape) -> Array:
    """Gaussian noise with a given spectrum and an rms of one, drawn where its colour is set."""
    size = 1 << max(8, (count - 1).bit_length())
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    magnitude = shape(frequencies).astype(np.float32)
    spectrum = rng.standard_normal((len(frequencies), 2), dtype=np.float32).view(np.complex64)[:, 0] * magnitude
    out = np.fft.irfft(spectrum, size)[:count]
    return out / max(1e-9, float(np.sqrt(np.mean(out * out))))


def band(low: float, high: float, steepness: float = 4.0) -> Shape:
    """Flat between two frequencies, falling off either side."""

    def shape(hz: Array) -> Array:
        hz = np.maximum(hz, 1.0)
        return 1 / np.sqrt((1 + (low / hz) ** (2 * steepness)) * (1 + (hz / high) ** (2 * steepness)))

    return shape


GRAIN, GRAINS, GRAINS_SEED = 2048, 3, 5  # samples, as many as the autoencoder's patches; of each band; of their noise
BANDS = {"low": (800.0, 3000.0), "middle": (3000.0, 7000.0), "high": (7000.0, 14000.0)}


@lru_cache
def _grains(name: str) -> Array:
    """(GRAINS, GRAIN) of noise in a band, each with an rms of one and none like another."""
    rng = np.random.default_rng((GRAINS_SEED, *name.encode()))
    several = np.stack([noise(rng, GRAIN, band(*BANDS[name])) for _ in range(GRAINS)])
    apart = np.linalg.qr(several.T)[0].T * np.sqrt(GRAIN)
    return apart.astype(np.float32)


def hiss(rng: np.random.Generator, count: int, **loudness: float) -> Array:
    """Noise of one or more BANDS with an rms of one, by grains: which mixture of them is drawn anew for each.

    Noise drawn by the sample has as many dimensions as samples. A small model cannot say any of it; a mixture of a
    few grains it can.
    """
    several = -(-count // GRAIN)
    out = np.zeros(several * GRAIN, np.float32)
    for name, amplitude in loudness.items():
        mix = rng.standard_normal((several, GRAINS)).astype(np.float32)
        mix /= np.linalg.norm(mix, axis=1, keepdims=True)
        out += np.float32(amplitude) * (mix @ _grains(name)).reshape(-1)
    return out[:count] / np.float32(sum(a * a for a in loudness.values()) ** 0.5)


def decay(count: int, seconds: float) -> Array:
    """Falls to 1/e in `seconds`."""
    return np.exp(clock(count) * np.float32(-1 / seconds))


def faded(wave: Array, attack: float = 0.006, release: float = FADE_SECONDS) -> Array:
    """The wave with its ends brought to silence."""
    out = wave.copy()
    rise, fall = min(len(out), samples(attack)), min(len(out), samples(release))
    if rise:
        out[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    if fall:
        out[-fall:] *= np.linspace(1, 0, fall, dtype=np.float32)
    return out


def placed(pieces: list[tuple[int, Array]], count: int) -> Array:
    """Sounds at their samples, summed; what reaches over the end is cut."""
    out = np.zeros(count, np.float32)
    for start, piece in pieces:
        length = min(len(piece), count - start)
        if length > 0:
            out[start : start + length] += piece[:length]
    return out


def padded(wave: Array, count: int) -> Array:
    return placed([(0, wave)], count)
