"""What can be measured of a sound without knowing what it should have been. Channels first or mono, numpy only."""

from itertools import pairwise

import numpy as np

from sa3_training.synth import RATE

Samples = np.ndarray
Values = np.ndarray

HOP = 441  # ten milliseconds
SILENCE = 1e-3  # rms below which there is no sound to measure


def mono(audio: Samples) -> Samples:
    """The sum of the channels, or the louder one where they cancel."""
    if audio.ndim == 1:
        return audio
    if len(audio) == 1:
        return audio[0]
    mixed = audio.mean(axis=0, dtype=np.float32)
    louder = audio[int(np.argmax((audio * audio).sum(axis=1)))]
    return mixed if rms(mixed) > 0.3 * rms(louder) else louder


def rms(audio: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def decibels(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-9)))


def peak(audio: Samples) -> float:
    """The tenth largest sample: one stray sample is not loudness, and a hi-hat is over in a moment."""
    wave = np.abs(audio).max(axis=0) if audio.ndim > 1 else np.abs(audio)
    return float(np.partition(wave, -10)[-10]) if wave.size >= 10 else 0.0


def envelope(audio: Samples) -> Values:
    """The rms of every ten milliseconds."""
    wave = mono(audio)
    frames = len(wave) // HOP
    return np.sqrt(np.mean(np.square(wave[: frames * HOP], dtype=np.float64).reshape(frames, HOP), axis=1))


def active_span(audio: Samples, floor_db: float = -30.0) -> tuple[float, float]:
    """The seconds at which sound starts and ends, by what is within `floor_db` of the loudest moment."""
    loudness = envelope(audio)
    if not len(loudness) or loudness.max() < SILENCE:
        return 0.0, 0.0
    heard = np.flatnonzero(loudness > loudness.max() * 10 ** (floor_db / 20))
    return float(heard[0] * HOP / RATE), float((heard[-1] + 1) * HOP / RATE)


def active(audio: Samples) -> Samples:
    """Mono, without the silence around."""
    start, end = active_span(audio)
    return mono(audio)[round(start * RATE) : round(end * RATE)]


def spectrum(wave: Samples, size: int = 4096) -> tuple[Values, Values]:
    """Mean power over frequency, by windows that overlap by half."""
    frames = stft(wave, size, size // 2)
    return np.fft.rfftfreq(size, 1 / RATE), np.mean(frames * frames, axis=0)


def stft(wave: Samples, size: int, hop: int) -> Values:
    """Magnitudes, a row a frame."""
    if len(wave) < size:
        wave = np.pad(wave, (0, size - len(wave)))
    views = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    return np.abs(np.fft.rfft(views * np.hanning(size).astype(np.float32), axis=1)).astype(np.float64)


def share(audio: Samples, low_hz: float, high_hz: float) -> float:
    """How much of the energy lies between two frequencies, 0 to 1."""
    frequencies, power = spectrum(active(audio))
    inside = (frequencies >= low_hz) & (frequencies < high_hz)
    return float(power[inside].sum() / max(power.sum(), 1e-20))


def centroid(audio: Samples) -> float:
    """The mean frequency of the energy, in Hz."""
    frequencies, power = spectrum(active(audio))
    return float((frequencies * power).sum() / max(power.sum(), 1e-20))


def fundamentals(audio: Samples, lowest_hz: float = 45.0, highest_hz: float = 2300.0) -> tuple[Values, Values]:
    """Pitch in Hz of every frame that has one, and when; YIN with the overtones above 5 kHz left out.

    Where a frame has no clear period there is no entry: noise has no fundamental.
    """
    wave = mono(audio).astype(np.float64)
    size, hop = 4096, 1024
    longest, shortest = int(RATE / lowest_hz), int(RATE / highest_hz)
    if len(wave) < size:
        wave = np.pad(wave, (0, size - len(wave)))
    views = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    loud = np.sqrt(np.mean(views * views, axis=1))
    heard = np.flatnonzero((loud > loud.max() * 0.1) & (loud > SILENCE))
    if not len(heard):
        return np.zeros(0), np.zeros(0)
    views = _smoothed(views[heard], 5000.0)
    difference = _difference(views, longest)
    period, clarity = _periods(difference, shortest)
    clear = clarity < 0.35
    return RATE / period[clear], heard[clear] * hop / RATE


def _smoothed(views: Values, highest_hz: float) -> Values:
    size = views.shape[1]
    bins = np.fft.rfft(views, axis=1)
    bins[:, np.fft.rfftfreq(size, 1 / RATE) > highest_hz] = 0
    bins[:, 0] = 0
    return np.fft.irfft(bins, size, axis=1)


def _difference(views: Values, longest: int) -> Values:
    """YIN's cumulative-mean normalised difference for lags 0 to `longest`."""
    size = views.shape[1]
    window = size - longest - 1
    padded = 2 * size
    ahead = np.fft.rfft(views, padded, axis=1)
    start = np.fft.rfft(views[:, :window], padded, axis=1)
    cross = np.fft.irfft(ahead * np.conj(start), padded, axis=1)[:, : longest + 2]
    energy = np.cumsum(np.pad(views * views, ((0, 0), (1, 0))), axis=1)
    lags = np.arange(longest + 2)
    moved = energy[:, lags + window] - energy[:, lags]
    raw = np.maximum(moved + moved[:, :1] - 2 * cross, 0)
    mean = np.cumsum(raw[:, 1:], axis=1) / np.arange(1, longest + 2)
    return np.concatenate([np.ones((len(raw), 1)), raw[:, 1:] / np.maximum(mean, 1e-12)], axis=1)


def _periods(difference: Values, shortest: int) -> tuple[Values, Values]:
    """Of each row the first dip that is nearly as deep as the deepest, to a fraction of a sample."""
    rows = difference[:, shortest:]
    inner = rows[:, 1:-1]
    dips = (inner <= rows[:, :-2]) & (inner < rows[:, 2:])
    deepest = inner.min(axis=1, keepdims=True)
    good = dips & (inner <= deepest + 0.12)
    first = np.where(good.any(axis=1), good.argmax(axis=1), inner.argmin(axis=1))
    at = np.arange(len(rows))
    before, here, after = rows[at, first], rows[at, first + 1], rows[at, first + 2]
    bend = before + after - 2 * here
    shift = np.where(bend > 1e-12, 0.5 * (before - after) / np.maximum(bend, 1e-12), 0.0)
    return first + 1 + shortest + np.clip(shift, -1, 1), here


def fundamental(audio: Samples) -> float:
    """The pitch most of the sound has, in Hz; 0 where it has none."""
    pitches, _ = fundamentals(audio)
    return float(np.median(pitches)) if len(pitches) >= 2 else 0.0


def pan_db(audio: Samples) -> float:
    """How much louder left is than right."""
    if audio.ndim == 1 or len(audio) == 1:
        return 0.0
    return decibels(max(rms(audio[0]), 1e-6) / max(rms(audio[1]), 1e-6))


def noisiness(audio: Samples) -> float:
    """Near 0.5 for noise of any colour, near 0 for tones: flatness among neighbouring bins, weighted by energy."""
    wave = active(audio)
    size, group = 8192, 32
    frames = stft(wave, size, size // 2)
    power = frames[:, 8 : 8 + (frames.shape[1] - 8) // group * group].reshape(len(frames), -1, group) ** 2 + 1e-14
    mean = power.mean(axis=2)
    flat = np.exp(np.log(power).mean(axis=2)) / mean
    return float((flat * mean).sum() / max(mean.sum(), 1e-20))


def chroma(audio: Samples, low_hz: float = 180.0, high_hz: float = 600.0) -> Values:
    """The energy of the twelve pitch classes, C first, of the strongest bin near every semitone."""
    wave = active(audio)
    size = 16384
    frequencies, power = spectrum(wave, size)
    classes = np.zeros(12)
    for midi in range(36, 96):
        hz = 440 * 2 ** ((midi - 69) / 12)
        if low_hz <= hz <= high_hz:
            near = (frequencies > hz * 2 ** (-0.4 / 12)) & (frequencies < hz * 2 ** (0.4 / 12))
            classes[midi % 12] += power[near].max(initial=0)
    return classes / max(classes.max(), 1e-20)


def onsets(audio: Samples) -> Values:
    """How much louder each ten milliseconds is than the one before, over a few bands."""
    wave = mono(audio)
    wave = np.pad(wave, (1024, 1024))
    frames = stft(wave, 1024, HOP)
    edges = [1, 5, 12, 35, 120, 400]
    power = np.stack([(frames[:, a:b] ** 2).sum(axis=1) for a, b in pairwise(edges)])
    loudest = power.max()
    level = np.log10(power / max(loudest, 1e-12) + 1e-4)
    return np.maximum(np.diff(level, axis=1), 0).sum(axis=0)


def tempo(audio: Samples, slowest: float = 50.0, fastest: float = 400.0) -> float:
    """Beats a minute, from the shortest period at which the onsets nearly repeat; 0 without one.

    It looks beyond any tempo a caption has, so that twice too fast is found out.
    """
    strength = onsets(audio)
    strength = strength - strength.mean()
    if len(strength) < 60 or not strength.any():
        return 0.0
    strength = np.convolve(strength, np.hanning(9)[1:-1], "same")
    size = 1 << (2 * len(strength) - 1).bit_length()
    power = np.abs(np.fft.rfft(strength, size)) ** 2
    repeats = np.fft.irfft(power, size)[: len(strength)]
    # Unbiased: a long period overlaps itself less, and is no worse for it.
    repeats = repeats / (len(strength) - np.arange(len(strength))) / max(repeats[0] / len(strength), 1e-12)
    per_minute = 60 * RATE / HOP
    shortest, longest = int(per_minute / fastest), min(int(per_minute / slowest) + 1, len(strength) * 3 // 4)
    inner = repeats[shortest : longest + 1]
    if len(inner) < 3:
        return 0.0
    middle = inner[1:-1]
    tops = np.flatnonzero((middle >= inner[:-2]) & (middle > inner[2:])) + 1
    if not len(tops) or inner[tops].max() < 0.15:
        return 0.0
    lag = int(tops[inner[tops] >= 0.8 * inner[tops].max()][0]) + shortest
    return per_minute / _refined(repeats, lag)


def _refined(repeats: Values, lag: int) -> float:
    """A lag to a fraction of a frame, read from its multiples where the sound is long enough."""
    best = float(lag)
    for times in (1, 2, 4):
        near = round(best * times)
        if near + 3 >= len(repeats) * 0.8:
            break
        window = np.arange(near - 2, near + 3)
        top = int(window[np.argmax(repeats[window])])
        before, here, after = repeats[top - 1 : top + 2]
        bend = before + after - 2 * here
        best = (top + (0.5 * (before - after) / bend if bend < -1e-12 else 0.0)) / times
    return best


def count_onsets(audio: Samples) -> int:
    """How many separate sounds there are: times the level rises from well below to well above."""
    loudness = envelope(audio)
    if not len(loudness) or loudness.max() < SILENCE:
        return 0
    high, low = loudness > 0.3 * loudness.max(), loudness < 0.12 * loudness.max()
    found, armed = 0, True
    for is_high, is_low in zip(high, low, strict=True):
        if armed and is_high:
            found, armed = found + 1, False
        elif is_low:
            armed = True
    return found


def direction(audio: Samples) -> tuple[float, float]:
    """Where pitch goes: its correlation with time, -1 to 1, and by how many octaves."""
    wave = active(audio)
    frames = stft(wave, 2048, 1024)
    frequencies = np.fft.rfftfreq(2048, 1 / RATE)[2:]
    power = frames[:, 2:] ** 2
    loud = power.sum(axis=1)
    kept = loud > 0.01 * max(loud.max(), 1e-12)
    if kept.sum() < 4:
        return 0.0, 0.0
    height = (power[kept] * np.log2(frequencies)).sum(axis=1) / power[kept].sum(axis=1)
    when = np.flatnonzero(kept).astype(np.float64)
    if height.std() < 1e-6:
        return 0.0, 0.0
    slope = np.polyfit(when, height, 1)[0]
    return float(np.corrcoef(when, height)[0, 1]), float(slope * (when[-1] - when[0]))
