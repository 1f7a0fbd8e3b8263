"""The last step for any generated sound: channels, rate, then either the reference's clamp or a limiter."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa3_engines.errors import BadOutput, InvalidRequest
from sa3_runtime import resample
from sa3_runtime.audio import MAX_RATE, Sound, fix_channels

STEP = 16  # samples per gain point; between points the gain is a straight line
OVERSAMPLING = 4
REACH = 64  # samples each side for a value between two; fewer misread more of what is close to Nyquist
BETA = 6.0  # of the Kaiser window over them
ROWS = 2048  # steps per matrix product, to bound memory
AHEAD_SECONDS = 0.005
RELEASE_SECONDS = 0.08
MARGIN_DB = 0.05  # how far over its ceiling a pass may leave the peak before another one runs
PASSES = 4
SILENCE_DB = -200.0  # what silence reads as, because JSON has no infinity


@dataclass(frozen=True, kw_only=True)
class Finish:
    limiter: float | None = None  # ceiling in dBTP; None clamps to [-1, 1] as the reference does
    rate: int | None = None  # None keeps the model's
    channels: int | None = None  # None keeps the model's

    def __post_init__(self) -> None:
        given: tuple[Any, ...] = (self.limiter, self.rate, self.channels)
        if any(isinstance(one, bool) or not isinstance(one, int | float | None) for one in given):
            raise InvalidRequest(
                f"limiter {self.limiter!r}, rate {self.rate!r}, channels {self.channels!r}: not numbers"
            )
        if any(isinstance(one, float) for one in (self.rate, self.channels)):
            raise InvalidRequest(
                f"rate {self.rate}, channels {self.channels}; whole numbers were expected, written without a point"
            )
        if self.limiter is not None and not -40 <= self.limiter <= 0:
            raise InvalidRequest(f"the limiter's ceiling is {self.limiter} dBTP; expected -40 to 0")
        if self.rate is not None and not 1000 <= self.rate <= MAX_RATE:
            raise InvalidRequest(f"the output rate is {self.rate} Hz; expected 1000 to {MAX_RATE}")
        if self.channels not in (None, 1, 2):
            raise InvalidRequest(f"{self.channels} output channels were asked for; expected 1 or 2")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the limiter or clamp was given, and what it changed."""

    true_peak_db: float  # of the signal oversampled four times
    sample_peak_db: float
    changed: float  # share of samples clamped or turned down
    reduction_db: float  # the most any of them was


def finish(sound: Sound, options: Finish) -> tuple[Sound, Report]:
    samples, rate = sound.samples, sound.rate
    if options.channels == 1 and len(samples) > 1:
        samples = samples.mean(axis=0, keepdims=True, dtype=np.float32)
    elif options.channels == 2:
        samples = fix_channels(samples)
    if options.rate is not None:
        # Before limiting: a filter moves peaks.
        samples, rate = resample.fast(samples, rate, options.rate), options.rate
    peak = float(np.abs(samples).max(initial=0))
    if not math.isfinite(peak):
        raise BadOutput("the sound to finish", "NaN or infinite samples")
    peaks = _peaks(samples)
    true_peak = float(peaks.max(initial=0))
    if options.limiter is None:
        out, changed = _clamped(samples)
        reduction = max(peak, 1.0)
    else:
        out, changed, reduction = _limited(samples, peaks, rate, 10 ** (options.limiter / 20))
    return Sound(out, rate), Report(
        true_peak_db=_db(true_peak), sample_peak_db=_db(peak), changed=changed, reduction_db=_db(reduction)
    )


def _clamped(samples: np.ndarray) -> tuple[np.ndarray, float]:
    over = int(np.count_nonzero(samples > 1)) + int(np.count_nonzero(samples < -1))
    return (np.clip(samples, -1, 1) if over else samples), over / max(1, samples.size)


def _limited(samples: np.ndarray, peaks: np.ndarray, rate: int, ceiling: float) -> tuple[np.ndarray, float, float]:
    """Turned down around what is over the ceiling, all channels alike; elsewhere bit for bit as it was."""
    if peaks.max(initial=0) <= ceiling:
        return samples, 0.0, 1.0
    total = np.ones(len(peaks) + 1, np.float32)
    for _ in range(PASSES):
        gain = _gain(peaks, rate, ceiling)
        samples, total = _turned_down(samples, gain), total * gain
        # A gain that moves shifts the values between samples a little, so the result is measured again.
        peaks = _peaks(samples)
        if peaks.max() <= ceiling * 10 ** (MARGIN_DB / 20):
            break
    else:
        rest = np.float32(ceiling / peaks.max())
        samples, total = samples * rest, total * rest
    touched = np.repeat((total[:-1] < 1) | (total[1:] < 1), STEP)[: samples.shape[1]]
    return np.clip(samples, -ceiling, ceiling), float(touched.mean()), 1 / float(total.min())


def _gain(peaks: np.ndarray, rate: int, ceiling: float) -> np.ndarray:
    """The gain at the start of each step, and at the end of the last."""
    ahead = max(1, round(AHEAD_SECONDS * rate / STEP))
    over = np.log(np.maximum(peaks / ceiling, 1))
    # Release: every excess decays exponentially and the largest rules. In logarithms that is a running maximum.
    time = np.arange(len(over)) * (STEP / (RELEASE_SECONDS * rate))
    with np.errstate(divide="ignore"):
        held = np.exp(np.maximum.accumulate(np.log(over) + time) - time)
    held[held < 1e-5] = 0  # so that a release ends, and what follows is untouched
    # Attack: the largest excess of the steps ahead, averaged over as many behind, is never under the excess itself.
    padded = np.pad(held, (ahead + 1, ahead + 2))
    most = np.lib.stride_tricks.sliding_window_view(padded, ahead + 3).max(axis=1)
    weights = np.hanning(ahead + 3)[1:-1]
    smooth = np.convolve(most, weights / weights.sum(), mode="valid")
    return np.exp(-smooth).astype(np.float32)


def _turned_down(samples: np.ndarray, gain: np.ndarray) -> np.ndarray:
    slope = np.arange(STEP, dtype=np.float32) / STEP
    line = (gain[:-1, None] + np.diff(gain)[:, None] * slope).reshape(-1)
    return samples * line[: samples.shape[1]]


def _peaks(samples: np.ndarray) -> np.ndarray:
    """The largest magnitude in each step over all channels, oversampled."""
    channels, length = samples.shape
    steps = -(-length // STEP)
    padded = np.zeros((channels, steps * STEP + 2 * REACH), np.float32)
    padded[:, REACH : REACH + length] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, STEP + 2 * REACH, axis=1)[:, ::STEP]
    taps = _between()
    out = np.empty(steps, np.float32)
    for row in range(0, steps, ROWS):
        block = slice(row, min(row + ROWS, steps))
        out[block] = np.max([_largest(np.ascontiguousarray(channel[block]), taps) for channel in windows], axis=0)
    return out


def _largest(frames: np.ndarray, taps: np.ndarray) -> np.ndarray:
    between, on = frames @ taps, frames[:, REACH : REACH + STEP]
    high = np.maximum(between.max(axis=1), on.max(axis=1))
    return np.maximum(high, -np.minimum(between.min(axis=1), on.min(axis=1)))


def _between() -> np.ndarray:
    """A step with its surroundings to the step's in-between values: a Kaiser-windowed sinc at three offsets."""
    at = np.arange(STEP)[:, None] + np.arange(1, OVERSAMPLING) / OVERSAMPLING
    lag = np.arange(-REACH, STEP + REACH)[:, None] - at.reshape(-1)
    inside = np.abs(lag) < REACH
    window = np.i0(BETA * np.sqrt(np.where(inside, 1 - (lag / REACH) ** 2, 0))) / np.i0(BETA)
    return np.where(inside, np.sinc(lag) * window, 0).astype(np.float32)


def _db(value: float) -> float:
    return 20 * math.log10(value) if value > 10 ** (SILENCE_DB / 20) else SILENCE_DB
