"""How a clip was made, as values JSON can hold, in the tags of its file or beside it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sa3_engines.errors import InvalidRequest
from sa3_runtime import audio, fields, sidecar, tags
from sa3_runtime.generation import Generation
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.recipe import AdapterFile, InputFile, Opening, Recipe, Record, as_folder, may_be_folder, sha256
from sa3_runtime.request import INPUTS, Plan, Request

SETTINGS = frozenset(f.name for f in dataclasses.fields(Request)) - {
    *INPUTS,
    "inpaint_mask",
    "decode",
}  # the rest is values JSON can hold
SOFTWARE = f"sa3-runtime {version('sa3-runtime')}"
TITLE = 200  # characters of a prompt


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
    if not may_be_folder(opening.model) or not Path(opening.model).is_dir():
        return opening.model
    return as_folder(_path_from(folder, Path(opening.model), opening.written or opening.model))


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
