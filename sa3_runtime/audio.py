"""Sound in and out: any file libsndfile reads or any array, and wav, flac, mp3, ogg and opus files."""

import io
import os
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import soundfile as sf

from sa3_engines.errors import AudioFileError, InvalidRequest
from sa3_runtime import ogg, resample, tags
from sa3_runtime.arrays import MAX_CHANNELS, as_array, channels_first, described, full_scale
from sa3_runtime.files import check_writable as check_writable
from sa3_runtime.files import write_atomic
from sa3_runtime.missing import cut_short

Bits = Literal["16", "24", "32f"]

MAX_RATE = 1_000_000
BLOCK = 1 << 16  # frames per call; libsndfile's Vorbis encoder crashes on minutes at once
READABLE = "wav, flac, ogg, opus, mp3, aiff, caf, w64, rf64 and au"


@dataclass(frozen=True, eq=False)
class Sound:
    samples: np.ndarray  # float32, (channels, n), full scale at 1
    rate: int
    warning: str | None = None  # what is wrong with the file it was read from
    path: Path | None = None  # of that file, where a request was given the file and not the sound

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.rate


# Reading


def read(path: str | os.PathLike[str], seconds: float | None = None) -> Sound:
    """The file, or its first `seconds`. Of a file cut short comes what can be decoded, with a warning, if its format
    allows that.
    """
    name = repr(os.fspath(path))
    if seconds is not None and not 0 < seconds < inf:
        raise InvalidRequest(f"the first {seconds!r} seconds of {name} were asked for; it must be more than 0")
    with _opened(path) as file:
        left = None if seconds is None else ceil(seconds * file.samplerate)
        blocks: list[np.ndarray] = []
        # In blocks, because a header may promise more than the file has, or than fits in memory.
        while left is None or left > 0:
            block = file.read(BLOCK if left is None else min(BLOCK, left), dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block)
            left = None if left is None else left - len(block)
        rate, frames = file.samplerate, sum(map(len, blocks))
        lacking = cut_short(file, frames) if left is None or left > 0 else None
    if not blocks:
        raise AudioFileError(f"{name} holds no audio: its length is zero")
    return _checked(np.concatenate(blocks).T, rate, name, lacking and f"{name} {lacking}")


def as_sound(value: object, name: str) -> Sound:
    """`value` as a Sound: a path, a Sound, or audio with its rate, in either order (the rate is the integer).

    Arrays are (n,) or (n, channels), as upstream takes them; tensors are (n,), (channels, n) or (1, channels, n).
    An array whose second axis is over 32 long cannot be (n, channels), so it is taken as (channels, n).
    """
    if isinstance(value, Sound):
        sound = _sound(value, name)
        return replace(_checked(sound.samples, sound.rate, name, sound.warning), path=value.path)
    if isinstance(value, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", value))
        return replace(read(path), path=path)
    pair = cast("tuple[object, ...]", tuple(value)) if isinstance(value, tuple | list) else ()
    rates = [item for item in pair if isinstance(item, int | np.integer) and not isinstance(item, bool)]
    if len(pair) != 2 or len(rates) != 1:
        raise InvalidRequest(
            f"{name} must be a path or a (rate, audio) pair whose rate is an integer, not {described(value)}"
        )
    (audio,) = (item for item in pair if item is not rates[0])
    return _checked(channels_first(audio, name), int(rates[0]), name)


def _sound(value: Sound, name: str) -> Sound:
    """With samples that are float32 and a rate that is an integer; a caller may have put anything into it."""
    rate: Any = value.rate
    number = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not number or not float(rate).is_integer():
        raise InvalidRequest(f"{name} has a rate of {rate!r}; a whole number was expected")
    try:
        samples = full_scale(as_array(value.samples), name)
    except (TypeError, ValueError) as e:
        raise InvalidRequest(f"{name} holds no array of samples: {e}") from e
    return Sound(_of_channels(samples, name), _of_range(int(rate), name), value.warning)


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples, with silence after the end."""
    short = max(0, length - samples.shape[-1])
    return np.pad(samples[..., :length], [(0, 0)] * (samples.ndim - 1) + [(0, short)])


def fix_channels(samples: np.ndarray, channels: int = 2) -> np.ndarray:
    """The first `channels` of (channels, n); one channel is repeated."""
    return np.repeat(samples, channels, axis=0) if len(samples) == 1 else samples[:channels]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The tags among `tags.NAMES` that the file has."""
    with _opened(path) as file:
        found = file.copy_metadata()
        riff = file.format in ("WAV", "WAVEX")
    if riff:
        return tags.read_riff_info(Path(path))
    return {name: tags.without_library(text) for name, text in found.items() if name in tags.NAMES}


def check_kind(path: Path, what: str = "an audio file") -> None:
    """Refuses what is there and no file."""
    if path.is_dir():
        raise AudioFileError(f"{os.fspath(path)!r} is a folder, not {what}")
    if path.exists() and not path.is_file():
        raise AudioFileError(
            f"{os.fspath(path)!r} is a pipe or a device, and {what} is read more than once; save it as a file first"
        )


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Generator[sf.SoundFile]:
    name = repr(os.fspath(path))
    try:
        check_kind(Path(path))  # before it is opened, which a pipe takes once
        with Path(path).open("rb"):  # libsndfile has one message for every reason
            pass
    except FileNotFoundError as e:
        raise AudioFileError(f"there is no audio file {name}") from e
    except (OSError, ValueError) as e:
        raise AudioFileError(f"cannot read {name}: {getattr(e, 'strerror', None) or e}") from e
    unusable = AudioFileError(
        f"cannot read {name}: it is damaged or not one of {READABLE}; convert m4a, aac or video to wav first"
    )
    try:
        file = sf.SoundFile(os.fspath(path))
    except (sf.SoundFileError, TypeError) as e:  # TypeError: a .raw file, which says nothing about itself
        raise unusable from e
    try:
        with file:
            yield file
    except sf.SoundFileError as e:
        raise unusable from e


def _checked(samples: np.ndarray, rate: int, name: str, warning: str | None = None) -> Sound:
    if not samples.size:
        raise AudioFileError(f"{name} holds no audio: its length is zero")
    if not np.isfinite(samples).all():
        raise AudioFileError(f"{name} holds NaN or infinite samples")
    samples = np.ascontiguousarray(_of_channels(samples, name), np.float32)
    return Sound(samples, _of_range(int(rate), name), warning)


def _of_range(rate: int, name: str) -> int:
    if not 1 <= rate <= MAX_RATE:
        raise InvalidRequest(f"{name} has a rate of {rate} Hz; expected 1 to {MAX_RATE}")
    return rate


def _of_channels(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.ndim != 2 or (len(samples) > MAX_CHANNELS and samples.size):
        raise InvalidRequest(f"{name} has shape {samples.shape}; expected (channels, n)")
    return samples


# Writing


@dataclass(frozen=True)
class Format:
    container: str
    subtype: str
    bits: tuple[Bits, ...] = ()  # () = lossy, so there is nothing to choose
    rates: tuple[int, ...] = ()  # () = any
    compression: float | None = None  # libsndfile's 0 (best) to 1


# What libsndfile's encoders take. Those of mp3 and Vorbis also claim rates at which they break or crash.
_MP3 = (16000, 22050, 24000, 32000, 44100, 48000)
_VORBIS = (8000, 11025, 12000, *_MP3, 88200, 96000, 176400, 192000)
_OPUS = (8000, 12000, 16000, 24000, 48000)

FORMATS = {  # by suffix, without the dot
    "wav": Format("WAV", "PCM_16", bits=("16", "24", "32f")),
    "flac": Format("FLAC", "PCM_16", bits=("16", "24")),
    "mp3": Format("MP3", "MPEG_LAYER_III", rates=_MP3, compression=0.0),
    "ogg": Format("OGG", "VORBIS", rates=_VORBIS, compression=0.3),
    "opus": Format("OGG", "OPUS", rates=_OPUS, compression=0.7),
}


def format_for(path: str | os.PathLike[str], format: str | None = None) -> str:
    """The format asked for, else the one the suffix names; the two may not name different ones."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    chosen = suffix if format is None else str(format).lower().removeprefix(".")
    if chosen not in FORMATS:
        if format is None and Path(path).name.lower().removeprefix(".") in FORMATS:
            raise InvalidRequest(f"{os.fspath(path)!r} is an ending without a name; write NAME{Path(path).name}")
        asked = f"{os.fspath(path)!r} has no known suffix" if format is None else f"unknown format {format!r}"
        raise InvalidRequest(f"{asked}; choose from {', '.join(f'.{name}' for name in FORMATS)}")
    if suffix in FORMATS and suffix != chosen:
        raise InvalidRequest(f"{os.fspath(path)!r} ends in .{suffix} but the format asked for is {chosen}")
    return chosen


def check_rate(rate: int, format: str) -> None:
    """For a rate that somebody names, which `encode` would turn into the next one that the format holds."""
    rates = FORMATS[format].rates
    if rates and rate not in rates:
        held = ", ".join(map(str, rates))
        raise InvalidRequest(f"{format} does not hold {rate} Hz; choose from {held}, or write wav or flac")
    if format == "flac" and (rate > 655_350 or (rate > 65_535 and rate % 10)):
        raise InvalidRequest(f"flac does not hold {rate} Hz; it holds up to 65535 Hz, and tens of Hz up to 655350")


def encode(
    sound: Sound,
    format: str,
    bits: Bits | None = None,
    metadata: Mapping[str, str] | None = None,
    dither: np.random.Generator | None = None,
) -> bytes:
    """The file as bytes. `bits` is for wav and flac (default 16); `dither` adds triangular noise of one step to those.

    The lossy formats hold some rates only; others are resampled to the next one up (or the highest), so that 44.1 kHz
    becomes 48 kHz in opus. Samples over full scale are clipped, except in 32f.
    """
    made = FORMATS[format_for("", format)]
    given: Any = sound  # what a caller passed, whatever the annotation says
    if not isinstance(given, Sound):
        raise InvalidRequest(
            f"what is to be written is {described(given)}, not a Sound: give made.clip(0), or Sound(samples, rate)"
        )
    sound = _sound(given, "the sound to write")
    if not np.isfinite(sound.samples).all():
        raise InvalidRequest("cannot write audio that holds NaN or infinite samples")
    if bits is not None and bits not in made.bits:
        choice = f"choose from {', '.join(made.bits)}" if made.bits else "it is lossy and has none to choose"
        raise InvalidRequest(f"{format} has no bit depth {bits!r}: {choice}")
    kept, samples, rate = tags.checked(metadata), sound.samples, sound.rate
    if made.rates and rate not in made.rates:
        rate = min((known for known in made.rates if known > rate), default=max(made.rates))
        samples = resample.fast(samples, sound.rate, rate)
    if bits != "32f":
        samples = np.clip(samples, -1, 1)
    frames = samples.T if bits == "32f" or not made.bits else _steps(samples.T, int(bits or 16), dither)
    if made.container == "WAV":
        return _wav(frames, rate, bits or "16", kept)
    if made.subtype == "OPUS":
        long = ogg.padded(frames, rate)
        return ogg.shortened(_libsndfile(long, rate, made, made.subtype, kept), len(long) - len(frames), rate)
    if made.container == "MP3":
        return tags.id3(kept) + _libsndfile(frames, rate, made, made.subtype, {})
    return _libsndfile(frames, rate, made, f"PCM_{bits}" if bits else made.subtype, kept)


def write(
    path: str | os.PathLike[str],
    sound: Sound,
    format: str | None = None,
    bits: Bits | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    write_atomic(path, encode(sound, format_for(path, format), bits, metadata))


def _steps(frames: np.ndarray, bits: int, dither: np.random.Generator | None) -> np.ndarray:
    # The scale libsndfile reads with, so that what was read from a file of this depth is written bit for bit.
    full = 1 << (bits - 1)
    scaled = frames * np.float32(full)
    if dither is not None:
        scaled += dither.random(frames.shape, np.float32) - dither.random(frames.shape, np.float32)
    steps = np.clip(np.rint(scaled), -full, full - 1)
    return steps.astype("<i2" if bits == 16 else "<i4")


def _wav(frames: np.ndarray, rate: int, bits: Bits, kept: Mapping[str, str]) -> bytes:
    # Not libsndfile's: it stamps the time into float files, so equal sounds would make unequal files.
    width, channels = {"16": 2, "24": 3, "32f": 4}[bits], frames.shape[1]
    data = np.ascontiguousarray(frames, "<f4" if bits == "32f" else frames.dtype).tobytes()
    if bits == "24":
        data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, :3].tobytes()
    kind = (3 if bits == "32f" else 1, channels, rate, rate * channels * width, channels * width, 8 * width)
    body = tags.riff_chunk("fmt ", struct.pack("<HHIIHH", *kind) + (b"\0\0" if bits == "32f" else b""))
    if bits == "32f":
        body += tags.riff_chunk("fact", struct.pack("<I", len(frames)))
    body += tags.riff_info(kept)
    if len(body) + len(data) > 0xFFFFFF00:
        raise InvalidRequest("a wav file holds 4 GB; write flac, fewer bits or a shorter sound")
    return tags.riff_chunk("RIFF", b"WAVE" + body + tags.riff_chunk("data", data))


def _libsndfile(frames: np.ndarray, rate: int, made: Format, subtype: str, kept: Mapping[str, str]) -> bytes:
    if subtype == "PCM_24":
        frames = frames << 8  # libsndfile takes the upper bits of 32
    out = io.BytesIO()
    options: Any = {"format": made.container, "subtype": subtype, "compression_level": made.compression}
    try:
        with sf.SoundFile(out, "w", rate, frames.shape[1], **options) as file:
            for name, text in kept.items():
                setattr(file, name, text)
            for start in range(0, len(frames), BLOCK):
                file.write(np.ascontiguousarray(frames[start : start + BLOCK]))
    except sf.SoundFileError as e:
        raise InvalidRequest(f"{subtype} cannot hold {frames.shape[1]} channels at {rate} Hz") from e
    return out.getvalue()
