"""A record back to what makes its clip again.

Flags and records come the same way: a command's flags are a record too, one that says less. Only where files are looked
for differs: a record's paths are seen from the folder it lies in, so that it can be used from anywhere, and moved with
its files.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sa3_engines import models
from sa3_engines.errors import AudioFileError, InvalidRequest, ModelNotFound
from sa3_runtime import audio, fields
from sa3_runtime.coding import Chunking
from sa3_runtime.finish import Finish
from sa3_runtime.recipe import (
    CHOICES,
    AdapterFile,
    Given,
    InputFile,
    Opening,
    Recipe,
    Record,
    as_folder,
    may_be_folder,
    sha256,
)
from sa3_runtime.record import SETTINGS
from sa3_runtime.request import INPUTS, AdapterUse, Request

OPTIONAL = {"negative_prompt", "batch_size", "sampler", "dist_shift", "sample_size", "chunked_decode", "adapters"}


def from_record(record: Record, folder: Path | None = None) -> Recipe:
    """Reads the files the record names, as seen from its `folder` or from here, and sees that they are what they were.

    A record may come from a file anyone could have edited, so nothing in it is believed before it is looked at.
    """
    with _damage():
        inputs = {name: _input(entry, name, folder) for name, entry in (record.get("inputs") or {}).items()}
        sounds = {name: audio.read(file.path) for name, file in inputs.items()}
        return Recipe(
            opening=opening(record, folder),
            request=_request(dict(record.get("request") or {}), sounds),
            inputs=inputs,
            item=_whole(record.get("item")),
        )


def opening(record: Record, folder: Path | None = None) -> Opening:
    """The part of a record that says what to open."""
    with _damage():
        written = _chosen(record.get("model"), "nano")
        return Opening(
            model=_model(written, record, folder),
            written=written,
            revision=_text(record.get("revision")),
            backend=_chosen(record.get("backend"), "auto"),
            device=_chosen(record.get("device"), "auto"),
            precision=_chosen(record.get("precision"), "auto"),
            threads=_whole(record.get("threads")),
            memory=_chosen(record.get("memory"), "normal"),
            adapters=[_adapter(entry, folder) for entry in record.get("adapters") or ()],
            recorded=[name for name in CHOICES if folder is not None and _is_recorded(record.get(name))],
        ).checked()


@contextmanager
def _damage() -> Generator[None]:
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError) as e:
        raise InvalidRequest(f"the record is damaged: {e}") from e


def _request(settings: dict[str, Any], sounds: Mapping[str, Any]) -> Request:
    if unknown := set(settings) - SETTINGS:
        raise InvalidRequest(f"the record has settings unknown here: {', '.join(sorted(unknown))}; update sa3-runtime")
    if "prompt" not in settings:
        raise InvalidRequest("the record has no prompt; give one with -p/--prompt")
    for name, value in settings.items():
        if value is not None:
            settings[name] = _SHAPES.get(name, _as_it_is)(value)
        elif name not in OPTIONAL:
            raise TypeError(f"{name} is missing")
    return Request(**settings, **sounds)


def _pair(value: Any) -> tuple[float, float]:
    low, high = value
    return float(low), float(high)


def _use(value: Any) -> AdapterUse:
    skip = _text(value.get("skip_layers")) or ""
    return AdapterUse(
        index=operator.index(value["index"]), interval=_pair(value.get("interval", (0.0, 1.0))), skip_layers=skip
    )


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _chosen(value: Any, usual: str) -> str:
    """An empty name is somebody's choice as well, and a wrong one."""
    text = _text(value)
    return usual if text is None else text


def _is_recorded(choice: Any) -> bool:
    return choice not in (None, "auto") and not isinstance(choice, Given)


def _seconds(value: Any) -> Any:
    for one in value if isinstance(value, Sequence) else [value]:
        if isinstance(one, int | float) and fields.FAR < abs(one) < math.inf:
            raise InvalidRequest(f"duration {one:g} s is longer than any sound")
    return value


def _shift(value: Any) -> Any:
    if not fields.SHIFT.fits(value):
        raise InvalidRequest(f"distribution shift {fields.shown(value)}; expected {fields.SHIFT.wanted}")
    return value


def _whole(value: Any) -> int | None:
    return None if value is None else operator.index(value)


def _as_it_is(value: Any) -> Any:
    return value


def _prompts(value: Any) -> Any:
    try:
        for text in [value] if isinstance(value, str) else value:
            text.encode()
    except UnicodeEncodeError as e:  # what was no UTF-8 on a command line arrives as lone surrogates
        raise InvalidRequest("a prompt holds bytes that are no text; write it in UTF-8") from e
    return value


_SHAPES: Mapping[str, Callable[[Any], Any]] = {
    "prompt": _prompts,
    "negative_prompt": _prompts,
    "batch_size": _whole,
    "sample_size": _whole,
    "sampler": _text,
    "seconds": _seconds,
    "dist_shift": _shift,
    "cfg_interval": _pair,
    "inpaint_regions": lambda regions: [_pair(region) for region in regions],
    "chunking": lambda value: Chunking(**value),
    "finish": lambda value: Finish(**value),
    "adapters": lambda uses: [_use(use) for use in uses],
}


def _model(written: str, record: Record, folder: Path | None) -> str:
    """A folder is looked for as files are; a repository's model has a revision, and nothing to be looked for."""
    named = folder is None or isinstance(written, Given) or record.get("revision") is not None
    if named or not may_be_folder(written):
        return written
    places = _places(written, folder)
    try:
        found = next((place for place in places if (place / models.CONFIG).is_file()), None)
    except OSError:  # too long for a folder's name
        return written
    if found is not None:
        return as_folder(os.fspath(found))
    if written.startswith(".") or Path(written).is_absolute() or record.get("repo", "") is None:
        raise ModelNotFound(
            f"there is no model {written!r}, the folder that the record names, as seen from its own folder or from "
            "here; name the model with --model"
        )
    return written


def _input(entry: Any, name: str, folder: Path | None) -> InputFile:
    if name not in INPUTS or entry.get("path") is None:
        raise InvalidRequest(f"the clip was made with {name} that is in no file, so its record cannot make it again")
    return _found(entry, folder, "audio file")


def _adapter(entry: Any, folder: Path | None) -> AdapterFile:
    file = _found(entry, folder, "adapter")
    return AdapterFile(
        path=file.path, sha256=file.sha256, written=file.written, strength=float(entry.get("strength", 1.0))
    )


def _found(entry: Any, folder: Path | None, what: str) -> InputFile:
    """The first of the places where it may lie whose content fits."""
    written, wanted = os.fspath(entry["path"]), _text(entry.get("sha256"))
    recorded = folder is not None and not isinstance(written, Given)
    sums: dict[Path, str] = {}
    for place in _places(written, folder) if recorded else [Path(written)]:
        if _is_file(place):
            sums[place] = sha256(place)
            if wanted in (None, sums[place]):
                return InputFile(path=place, sha256=sums[place], written=written)
    if sums:
        raise InvalidRequest(f"{what} {written!r} is not what it was when the record was made; name the file to use")
    audio.check_kind(Path(written), f"an {what}")
    missing = f"there is no {what} {written!r}"
    if recorded:
        missing += ", as seen from the record's folder or from here; name the file to use"
    raise AudioFileError(missing) if what == "audio file" else ModelNotFound(missing)


def _places(written: str, folder: Path | None) -> list[Path]:
    """Where a file that a record names may lie: as seen from the record's folder, from here, which is how records were
    once written, or in that folder, where both were moved to.
    """
    names = dict.fromkeys((written, written.replace("\\", "/")))  # a record from Windows may have its separators
    bases = [Path()] if folder is None else [folder, Path()]
    places = [base / name for base in bases for name in names]
    places += [bases[0] / PurePosixPath(name).name for name in names]
    return list(dict.fromkeys(places))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as e:  # a name that is too long, or too many links
        raise InvalidRequest(f"cannot read {fields.shown(os.fspath(path))}: {e.strerror or e}") from e
