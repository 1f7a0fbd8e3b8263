"""The files a command writes: their names, whether they can be written, and writing them whole."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from sa3_engines.errors import InvalidRequest
from sa3_runtime import audio, record, sidecar
from sa3_runtime.audio import Bits, Sound
from sa3_runtime.files import check_writable, write_atomic


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is asked for; a batch numbers the names."""

    path: Path
    format: str
    bits: Bits | None = None
    sidecar: bool = False
    latents: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """The files of one item."""

    sound: Path
    sidecar: Path | None = None
    latents: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.sound, self.sidecar, self.latents) if path is not None]

    @property
    def folder(self) -> Path:
        """Where its record will lie. What goes through a device or a pipe most likely ends in a file here."""
        passed_on = self.sound.exists() and not self.sound.is_file()
        return Path() if passed_on else self.sound.parent


def output(
    path: Path | None,
    format: str | None = None,
    bits: str | None = None,
    *,
    sidecar: bool = False,
    latents: Path | None = None,
    rate: int | None = None,
    base: Mapping[str, Any] | None = None,
) -> Output:
    """Refuses names, depths and rates that cannot be.

    rate: the one a flag names. base: the record of the clip that is made again; its rate was named for its own format,
    where it may have been resampled, and is made so again.
    """
    like: Mapping[str, Any] = (base or {}).get("output") or {}
    if path is None:
        path = Path(f"output.{format or like.get('format') or 'wav'}")
    known = audio.format_for(path, format)
    if bits is None and like.get("bits") in audio.FORMATS[known].bits:
        bits = like["bits"]
    if rate is None and base is not None and like.get("format") not in (None, known):
        rate = ((base.get("request") or {}).get("finish") or {}).get("rate")
    if rate is not None:
        audio.check_rate(rate, known)
    # A few samples written for trial tell what the encoder will not take before anything is computed.
    audio.encode(Sound(np.zeros((1, 64), np.float32), 48000), known, bits)  # pyright: ignore[reportArgumentType]
    if latents is not None:
        check_npy(latents)
    return Output(path=path, format=known, bits=bits, sidecar=sidecar, latents=latents)  # pyright: ignore[reportArgumentType]


def targets(wanted: Output, items: int) -> list[Target]:
    """One for each item, all of them writable now."""
    found: list[Target] = []
    for index in range(items):
        sound = wanted.path if items == 1 else numbered(wanted.path, index)
        latents = wanted.latents if items == 1 or wanted.latents is None else numbered(wanted.latents, index)
        found.append(Target(sound=sound, sidecar=_sidecar_of(sound) if wanted.sidecar else None, latents=latents))
    paths = [path for target in found for path in target.paths]
    for path, times in Counter(paths).items():
        if times > 1:
            raise InvalidRequest(f"{os.fspath(path)!r} would be written twice; give the outputs different names")
        check_writable(path)
    return found


def _sidecar_of(sound: Path) -> Path:
    return sound.with_suffix(".json") if sound.suffix else sound.with_name(f"{sound.name}.json")


def keep_others(found: Iterable[Target]) -> None:
    """Refuses a sidecar in place of what is no record, or is the record of another sound that is still there.

    To be asked before anything is computed, for a refusal afterwards would lose that.
    """
    advice = "choose another name with -o, or leave --sidecar out: the sound's tags hold its record too"
    for target in found:
        if target.sidecar is None or not target.sidecar.exists():
            continue
        name = os.fspath(target.sidecar)
        try:
            made = record.read(target.sidecar)
        except InvalidRequest as e:
            raise InvalidRequest(f"--sidecar would replace {name!r}, which is no record of a sound; {advice}") from e
        other = _recorded_sound(target.sidecar, made)
        if other is not None and not (target.sound.exists() and other.samefile(target.sound)):
            raise InvalidRequest(
                f"--sidecar would replace {name!r}, the record of {os.fspath(other)!r}, which is still there; {advice}"
            )


def _recorded_sound(path: Path, made: Mapping[str, Any]) -> Path | None:
    """The sound that a sidecar belongs to, where that is still beside it."""
    output: Mapping[str, Any] = made.get("output") or {}
    # Where both were renamed, or the record is older, its format tells.
    for name in (output.get("file"), f"{path.stem}.{output.get('format')}"):
        with suppress(OSError, ValueError):  # no name that a file can have
            sound = path.with_name(name or "")
            if _sidecar_of(sound) == path and sound.is_file():
                return sound
    return None


def numbered(path: Path, index: int) -> Path:
    suffix = path.suffix if path.suffix.lower().removeprefix(".") in (*audio.FORMATS, "npy") else ""
    return path.with_name(f"{path.name.removesuffix(suffix)}_{index}{suffix}")


def write(wanted: Output, target: Target, sound: Sound, latents: np.ndarray, made: Mapping[str, Any]) -> list[str]:
    """The sound with its record, then what goes beside it. Warnings are returned."""
    tags = record.to_tags(made)
    write_sound(wanted, target.sound, sound, tags)
    if target.sidecar is not None:
        sidecar.write(target.sidecar, made)
    if target.latents is not None:
        write_npy(target.latents, latents)
    if "comment" in tags or target.sidecar is not None:
        return []
    return [f"the record of {os.fspath(target.sound)!r} is too long for a sound file's tags; --sidecar keeps it"]


def write_sound(wanted: Output, path: Path, sound: Sound, tags: Mapping[str, str]) -> None:
    with not_interrupted():
        data = audio.encode(sound, wanted.format, wanted.bits, tags)
    write_atomic(path, data)


@contextmanager
def not_interrupted() -> Generator[None]:
    """Holds Ctrl-C back until the end; a second one takes effect at once.

    libsndfile calls back into Python for every block it writes, and an exception raised there is lost: the file would
    come out broken, and the program would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def hold(number: int, _: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


# Latents


def check_npy(path: Path) -> None:
    if path.name == ".npy":
        raise InvalidRequest(f"{os.fspath(path)!r} is an ending without a name; write NAME.npy")
    if path.suffix != ".npy":
        raise InvalidRequest(f"{os.fspath(path)!r} does not end in .npy, which is what latents are written as")


def write_npy(path: Path, latents: np.ndarray) -> None:
    """float32 (channels, frames)."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(latents, np.float32), allow_pickle=False)
    write_atomic(path, out.getvalue())


def read_npy(path: Path, channels: int) -> np.ndarray:
    """(channels, frames), or (1, channels, frames), as (1, channels, frames)."""
    name = os.fspath(path)
    try:
        audio.check_kind(path, "a .npy file")
        # Mapped, so that a header cannot claim more than the file holds; this reader knows no pickles.
        stored = np.lib.format.open_memmap(path, mode="r")
    except OSError as e:
        raise InvalidRequest(f"cannot read {name!r}: {e.strerror or e}") from e
    except (ValueError, OverflowError, TokenError) as e:  # TokenError: numpy's second try at a damaged header
        raise InvalidRequest(f"{name!r} is not a .npy file, or a damaged one") from e
    if stored.dtype.kind != "f":
        raise InvalidRequest(f"{name!r} holds {stored.dtype} values; latents are floating point numbers")
    shape = stored.shape if stored.ndim == 3 else (1, *stored.shape)
    if len(shape) != 3 or shape[:2] != (1, channels) or not shape[2]:
        raise InvalidRequest(f"{name!r} holds an array of shape {stored.shape}; ({channels}, frames) was expected")
    return np.array(stored, np.float32).reshape(shape)
