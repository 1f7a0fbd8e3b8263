"""How a clip was made, as values JSON can hold, and back to what makes it again.

Flags and records come the same way: a command's flags are a record too, one that says less.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from sa3_engines import selection, tiers
from sa3_engines.engine import Options
from sa3_engines.errors import AudioFileError, InvalidRequest, ModelNotFound
from sa3_runtime import audio, fields, sidecar, tags
from sa3_runtime.coding import Chunking
from sa3_runtime.finish import Finish
from sa3_runtime.pipeline import Generation, Pipeline
from sa3_runtime.request import INPUTS, AdapterUse, Plan, Request

Record = Mapping[str, Any]
SETTINGS = frozenset(f.name for f in dataclasses.fields(Request)) - {
    *INPUTS,
    "inpaint_mask",
    "decode",
}  # the rest is values JSON can hold
OPTIONAL = {"negative_prompt", "batch_size", "sampler", "dist_shift", "sample_size", "chunked_decode", "adapters"}
SOFTWARE = f"sa3-runtime {version('sa3-runtime')}"
TITLE = 200  # characters of a prompt


@dataclass(frozen=True, kw_only=True)
class InputFile:
    path: Path
    sha256: str
    written: str  # the path as the caller wrote it, which is what a record holds


@dataclass(frozen=True, kw_only=True)
class AdapterFile(InputFile):
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What to open, and how."""

    model: str = "nano"
    revision: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    memory: str = "normal"
    adapters: Sequence[AdapterFile] = ()

    def checked(self) -> Opening:
        """Refuses what can be told without the model, which may have to be downloaded."""
        Options(device=self.device, precision=self.precision, threads=self.threads, memory=self.memory)
        tiers.ask(self.precision)
        if self.backend != "auto":
            selection.load(self.backend)
        return self

    def open(self) -> Pipeline:
        pipeline = Pipeline.load(
            self.model,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            memory=self.memory,
            revision=self.revision,
        )
        try:
            for one in self.adapters:
                pipeline.load_adapter(one.path, one.strength)
        except BaseException:
            pipeline.close()
            raise
        return pipeline


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to open, what to ask of it, and which item of the batch is wanted; None: all."""

    opening: Opening
    request: Request
    inputs: Mapping[str, InputFile] = field(default_factory=dict[str, InputFile])
    item: int | None = None


def make(recipe: Recipe, generation: Generation, pipeline: Pipeline, item: int, created: datetime) -> dict[str, Any]:
    """What was asked for, and everything that was chosen for it: the seed, the backend, the model's commit."""
    source, support = pipeline.source, pipeline.engine.support
    return {
        "model": recipe.opening.model,
        "repo": source.repo,
        "revision": source.revision,
        "backend": support.backend,
        "device": support.device,
        "precision": support.precision,
        "threads": recipe.opening.threads,
        "memory": recipe.opening.memory,
        "adapters": [{"path": a.written, "sha256": a.sha256, "strength": a.strength} for a in recipe.opening.adapters],
        "inputs": {
            name: {"path": recipe.inputs[name].written, "sha256": recipe.inputs[name].sha256}
            if name in recipe.inputs
            else {"path": None}
            for name in (*INPUTS, "inpaint_mask")
            if getattr(generation.plan.request, name) is not None
        },
        "request": _settings(generation.plan),
        "item": item,
        "items": generation.plan.items,
        "created": created.isoformat(timespec="seconds"),
        "versions": versions() | dict(support.versions),
    }


def _settings(plan: Plan) -> dict[str, Any]:
    given = {name: getattr(plan.request, name) for name in SETTINGS}
    nested = {name: asdict(given[name]) for name in ("chunking", "finish")}
    chosen = {
        "prompt": _one_or_all(plan.prompts),
        "negative_prompt": plan.negatives and _one_or_all(plan.negatives),
        "seconds": _one_or_all(plan.seconds),
        "batch_size": plan.items,
        "seed": plan.seed if plan.seeds is None else plan.seeds,
        "sampler": plan.sampler,
        "dist_shift": plan.shift and dict(plan.shift),
        "adapters": given["adapters"] and [asdict(use) for use in given["adapters"]],
    }
    return given | nested | chosen


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def versions() -> dict[str, str]:
    return {"sa3-runtime": version("sa3-runtime"), "numpy": np.__version__}


# Back


def from_record(record: Record, folder: Path | None = None) -> Recipe:
    """Reads the files the record names, here or in `folder`, and sees that they are what they were.

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
        return Opening(
            model=_model("nano" if record.get("model") is None else record["model"], folder),
            revision=_text(record.get("revision")),
            backend=_chosen(record.get("backend"), "auto"),
            device=_chosen(record.get("device"), "auto"),
            precision=_chosen(record.get("precision"), "auto"),
            threads=_whole(record.get("threads")),
            memory=_chosen(record.get("memory"), "normal"),
            adapters=[_adapter(entry, folder) for entry in record.get("adapters") or ()],
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


def _model(name: Any, folder: Path | None) -> str:
    here = cast("str", _text(name))
    try:
        beside = folder is not None and not Path(here).exists() and (folder / here).is_dir()
    except OSError:  # too long for a folder's name
        beside = False
    return str(folder / here) if folder is not None and beside else here


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
    """Where the record says, or there as seen from where the record lies; the one whose content fits."""
    written, wanted = os.fspath(entry["path"]), _text(entry.get("sha256"))
    sums: dict[Path, str] = {}
    for place in (Path(written), *([folder / written] if folder is not None else [])):
        if _is_file(place):
            sums[place] = sha256(place)
    for place, found in sums.items():
        if wanted in (None, found):
            return InputFile(path=place, sha256=found, written=written)
    if sums:
        raise InvalidRequest(f"{what} {written!r} is not what it was when the record was made; name the file to use")
    missing = f"there is no {what} {written!r}"
    raise AudioFileError(missing) if what == "audio file" else ModelNotFound(missing)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as e:  # a name that is too long, or too many links
        raise InvalidRequest(f"cannot read {fields.shown(os.fspath(path))}: {e.strerror or e}") from e


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise InvalidRequest(f"cannot read {os.fspath(path)!r}: {e.strerror or e}") from e


def differences(record: Record, now: Record) -> list[str]:
    """Why a clip made again may not be the same to the last bit."""
    was, are = record.get("versions", {}), now["versions"]
    found = [f"{name} was {was[name]} and is {are[name]}" for name in are if name in was and was[name] != are[name]]
    found += [
        f"{name} was {record[name]} and is {now[name]}"
        for name in ("backend", "device", "precision")
        if name in record and record[name] != now[name]
    ]
    return [f"the clip may differ from its record in small ways: {', '.join(found)}"] if found else []


# In the tags of a sound file


def to_tags(record: Record) -> dict[str, str]:
    """Title, date and software for players; the whole record as the comment, where it is not too long for that."""
    prompts = record["request"]["prompt"]
    prompt = prompts if isinstance(prompts, str) else prompts[record["item"]]
    found = {
        "title": prompt[:TITLE],
        "date": record["created"][:10],
        "software": SOFTWARE,
        "comment": sidecar.dumps(record),
    }
    if sum(len(text.encode(errors="replace")) for text in found.values()) > tags.LIMIT:
        del found["comment"]
    return found


def read(path: Path) -> dict[str, Any]:
    """From a sidecar, or from a sound file's own tags."""
    if path.suffix.lower().removeprefix(".") not in audio.FORMATS:
        found = sidecar.read(path)
    else:
        comment = audio.read_metadata(path).get("comment", "")
        if not comment.startswith("{"):
            raise InvalidRequest(f"{os.fspath(path)!r} does not carry a record of how it was made")
        found = sidecar.loads(comment, os.fspath(path))
    try:
        fields.check(found)
    except InvalidRequest as e:
        raise InvalidRequest(f"the record in {os.fspath(path)!r} is damaged: {e}") from e
    return found
