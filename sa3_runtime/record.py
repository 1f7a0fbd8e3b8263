"""How a clip was made, as values JSON can hold, and back to what makes it again.

Flags and records come the same way: a command's flags are a record too, one that says less. Only where files are looked
for differs: a record's paths are seen from the folder it lies in, so that it can be used from anywhere, and moved with
its files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sa3_engines import models, selection, tiers
from sa3_engines.engine import Options
from sa3_engines.errors import AudioFileError, BackendUnavailable, InvalidRequest, ModelNotFound
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
CHOICES = ("backend", "device", "precision")  # which --backend auto makes anew
TITLE = 200  # characters of a prompt


class Given(str):
    """What a flag names, files and models included: those are seen from the working folder, never from a record's."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    path: Path
    sha256: str
    written: str  # the path as the flag or the record has it


@dataclass(frozen=True, kw_only=True)
class AdapterFile(InputFile):
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What to open, and how."""

    model: str = "nano"
    written: str | None = None  # the model as the record has it, where that is not where it was found
    revision: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    memory: str = "normal"
    adapters: Sequence[AdapterFile] = ()
    recorded: Sequence[str] = ()  # which of CHOICES a record made, and no flag

    def checked(self) -> Opening:
        """Refuses what can be told without the model, which may have to be downloaded."""
        Options(device=self.device, precision=self.precision, threads=self.threads, memory=self.memory)
        tiers.ask(self.precision)
        if self.backend != "auto":
            try:
                selection.load(self.backend)
            except InvalidRequest as e:
                if "backend" not in self.recorded:
                    raise
                raise InvalidRequest(f"{e}; {self._recorded()}") from e
        return self

    @contextmanager
    def explained(self) -> Generator[None]:
        """Adds to what cannot be run here that a record wants it so: nobody may have typed it."""
        try:
            yield
        except BackendUnavailable as e:
            if not self.recorded:
                raise
            raise BackendUnavailable(f"{e}; {self._recorded()}") from e

    def _recorded(self) -> str:
        chosen = ", ".join(f"{name} {getattr(self, name)}" for name in self.recorded)
        return f"the record chose {chosen}, and --backend auto runs it with what is here"

    def open(self, needs: Collection[str] = ()) -> Pipeline:
        pipeline = Pipeline.load(
            self.model,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            memory=self.memory,
            revision=self.revision,
            needs=needs,
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


def make(
    recipe: Recipe,
    generation: Generation,
    pipeline: Pipeline,
    item: int,
    created: datetime,
    folder: Path = Path(),
) -> dict[str, Any]:
    """What was asked for, and everything that was chosen for it: the seed, the backend, the model's commit.

    folder: where the record will lie, from which its paths are seen.
    """
    source, support = pipeline.source, pipeline.engine.support
    return {
        "model": _model_from(folder, recipe.opening),
        "repo": source.repo,
        "revision": source.revision,
        "backend": support.backend,
        "device": support.device,
        "precision": support.precision,
        "threads": recipe.opening.threads,
        "memory": recipe.opening.memory,
        "adapters": [
            {"path": _path_from(folder, a.path, a.written), "sha256": a.sha256, "strength": a.strength}
            for a in recipe.opening.adapters
        ],
        "inputs": {
            name: {"path": _path_from(folder, file.path, file.written), "sha256": file.sha256}
            if (file := recipe.inputs.get(name)) is not None
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


def _path_from(folder: Path, path: Path, written: str) -> str:
    """As a record in `folder` names it, with the separators that every system reads; an absolute path stays one."""
    if Path(written).is_absolute() and Path(written) == path:
        return written
    # Folders as they really are: behind a link `..` leads elsewhere. The file keeps its name, be it a link's.
    real = Path(os.path.realpath(path.parent)) / path.name
    try:
        return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()
    except ValueError:  # on another drive
        return os.fspath(real)


def _model_from(folder: Path, opening: Opening) -> str:
    if not _may_be_folder(opening.model) or not Path(opening.model).is_dir():
        return opening.model
    return _as_folder(_path_from(folder, Path(opening.model), opening.written or opening.model))


def _as_folder(path: str) -> str:
    """With a dot at its start it is read as a folder, whatever models are called."""
    return path if Path(path).is_absolute() or path.startswith(".") else f"./{path}"


def _may_be_folder(model: str) -> bool:
    """No name that means a model wherever it is said, and no home, which is where it is."""
    known = model == "nano" or model in models.RELEASED or model in models.ALIASES
    return not known and not model.startswith(("random:", "~"))


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
    if named or not _may_be_folder(written):
        return written
    places = _places(written, folder)
    try:
        found = next((place for place in places if (place / models.CONFIG).is_file()), None)
    except OSError:  # too long for a folder's name
        return written
    if found is not None:
        return _as_folder(os.fspath(found))
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


def write(
    path: str | os.PathLike[str], made: Generation, pipeline: Pipeline, index: int = 0, bits: audio.Bits | None = None
) -> None:
    """A clip that Python made, with what `sa3 generate --from` makes it again from in its tags."""
    given: tuple[Any, Any] = (made, pipeline)  # what a caller passed, whatever the annotations say
    if not isinstance(given[0], Generation) or not isinstance(given[1], Pipeline):
        kinds = " and ".join(type(one).__name__ for one in given)
        raise InvalidRequest(f"{kinds} were given; what was made and its pipeline were expected, in that order")
    sound, place, request = made.clip(index), Path(path), made.plan.request
    known = audio.format_for(place)
    for one in made.adapters:
        if one.strength != one.conditioner_strength:
            raise InvalidRequest(
                f"a record holds one strength of an adapter, and {one.path} has {one.strength} for the transformer and "
                f"{one.conditioner_strength} for the conditioners; audio.write keeps the sound alone"
            )
    used = [(one.path, float(one.strength)) for one in made.adapters]
    chosen = Opening(
        model=pipeline.asked,
        threads=pipeline.options.threads,
        memory=pipeline.options.memory,
        adapters=[AdapterFile(path=p, sha256=sha256(p), written=os.fspath(p), strength=s) for p, s in used],
    )
    paths = {name: getattr(getattr(request, name), "path", None) for name in INPUTS}
    inputs = {n: InputFile(path=p, sha256=sha256(p), written=os.fspath(p)) for n, p in paths.items() if p is not None}
    recipe = Recipe(opening=chosen, request=request, inputs=inputs)
    found = make(recipe, made, pipeline, int(index) % made.plan.items, datetime.now(UTC), place.parent)
    kept = to_tags(found | {"output": {"file": place.name, "format": known, "bits": bits}})
    if "comment" not in kept:
        raise InvalidRequest(
            f"the record of {os.fspath(place)!r} is too long for tags; audio.write keeps the sound alone"
        )
    audio.write(place, sound, known, bits, kept)


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


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """From a sidecar, or from a sound file's own tags."""
    path = Path(path)
    if path.suffix.lower().removeprefix(".") not in audio.FORMATS:
        found = sidecar.read(path)
    else:
        comment = audio.read_metadata(path).get("comment", "")
        if not comment.startswith("{"):
            raise InvalidRequest(f"{os.fspath(path)!r} does not carry a record of how it was made")
        found = sidecar.loads(comment, f"the record in {os.fspath(path)!r} is damaged")
    try:
        fields.check(found)
    except InvalidRequest as e:
        raise InvalidRequest(f"the record in {os.fspath(path)!r} is damaged: {e}") from e
    return found
