"""A bundle is a checkpoint folder plus graphs, and a manifest that says what they are and how well they agree.

The manifest is written last: a folder without one is unfinished. Sizes are checked whenever a bundle is opened, and the
content of its graphs and small files; `deep` checks all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from sa3_engines.errors import BundleError
from sa3_engines.models import MANIFEST

SCHEMA = 1
SMALL = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph, and how it compared with the reference at the sizes tried."""

    file: str
    sha256: str
    parity_db: float  # the worst signal-to-noise ratio against the torch engine
    relative_error: float  # the worst, largest difference over largest value
    sizes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class File:
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights came from, and the digests that tell whether they are still the same."""

    model: str
    repo: str | None = None
    revision: str | None = None
    digest: str  # of the checkpoint's files


@dataclass(frozen=True, kw_only=True)
class Bundle:
    schema: int = SCHEMA
    model: str
    target: str
    backends: tuple[str, ...]
    precision: str
    source: Origin
    built_with: Mapping[str, str]
    graphs: Mapping[str, Graph]
    files: Mapping[str, File]  # every file but the manifest, by its path from the folder
    licence: str
    recipe: str  # which version of the exporter's own code made the graphs

    @property
    def id(self) -> str:
        """Short, and the same for the same files."""
        listing = "".join(f"{name} {file.sha256}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()[:12]


def default_folder(model: str, target: str, precision: str) -> Path:
    """Where an export goes when nobody says: one folder per model, target and precision."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    whole = str(Path(model).resolve()) if Path(model).is_dir() else model
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in whole).strip("-")
    return Path(cache).expanduser() / "sa3-runtime" / "bundles" / f"{name}-{target}-{precision}"


def read(folder: Path, *, deep: bool = False) -> Bundle:
    """The bundle in a folder, its files checked."""
    found = load(folder)
    for name, file in found.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as e:
            raise BundleError(f"bundle {folder} is incomplete: {name} is missing; export it again") from e
        if size != file.size:
            raise BundleError(
                f"bundle {folder}: {name} is {size} bytes long and should be {file.size}: it was cut off or replaced; "
                "export it again"
            )
        if (deep or size < SMALL or name.endswith(".onnx")) and sha256(path) != file.sha256:
            raise BundleError(f"bundle {folder}: {name} was changed after the export; export it again")
    return found


def load(folder: Path) -> Bundle:
    """The manifest alone."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        graphs = folder.is_dir() and any(folder.glob("*.onnx"))
        what = "is unfinished: there are graphs and" if graphs else "is not a bundle: there is"
        raise BundleError(f"{folder} {what} no {MANIFEST}; export it with sa3-export") from e
    except OSError as e:
        raise BundleError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise BundleError(f"{path} is not JSON: {e}") from e
    return _parse(raw, path)


def write(folder: Path, found: Bundle) -> None:
    """Puts the manifest into place, whole."""
    part = folder / f".{MANIFEST}.part"
    part.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
    part.replace(folder / MANIFEST)


def describe(folder: Path, names: Iterable[str]) -> dict[str, File]:
    return {name: File(size=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in sorted(names)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Reader:
    """Takes values out of one object of the manifest, and says which one is wrong."""

    def __init__(self, block: object, path: Path, where: str = "") -> None:
        self.path, self.where = path, where
        if not isinstance(block, dict):
            raise self.wrong("is not an object")
        self.block = cast("dict[str, Any]", block)

    def wrong(self, what: str, key: str = "") -> BundleError:
        place = ".".join(part for part in (self.where, key) if part) or "the file"
        return BundleError(f"{self.path}: {place} {what}; export the bundle again")

    def take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        value = self.block.get(key)
        if value is None and optional:
            return None
        if key not in self.block:
            raise self.wrong("is missing", key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(f"is {value!r}, and should be of type {kind.__name__}", key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong("is not a list of texts", key)
        return tuple(values)

    def into(self, key: str) -> _Reader:
        return _Reader(self.take(key, dict), self.path, f"{self.where}.{key}" if self.where else key)

    def each(self, key: str) -> dict[str, _Reader]:
        inner = self.into(key)
        return {name: _Reader(value, self.path, f"{inner.where}.{name}") for name, value in inner.block.items()}

    def mapping(self, key: str) -> dict[str, str]:
        inner = self.into(key)
        return {name: inner.take(name, str) for name in inner.block}


def _parse(raw: object, path: Path) -> Bundle:
    top = _Reader(raw, path)
    schema = top.take("schema", int)
    if schema != SCHEMA:
        newer = "update sa3-runtime" if schema > SCHEMA else "export the bundle again"
        raise BundleError(f"{path} is of schema {schema}, and this version reads {SCHEMA}; {newer}")
    source = top.into("source")
    found = Bundle(
        model=top.take("model", str),
        target=top.take("target", str),
        backends=top.texts("backends"),
        precision=top.take("precision", str),
        source=Origin(
            model=source.take("model", str),
            repo=source.take("repo", str, optional=True),
            revision=source.take("revision", str, optional=True),
            digest=source.take("digest", str),
        ),
        built_with=top.mapping("built_with"),
        graphs={name: _graph(entry) for name, entry in top.each("graphs").items()},
        files={name: _file(entry) for name, entry in top.each("files").items()},
        licence=top.take("licence", str),
        recipe=top.take("recipe", str),
    )
    for name in found.files:
        # Bundles are downloaded too: none may point out of its folder.
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
            raise BundleError(f"{path}: files names {name!r}, which is not inside the bundle")
    for name, graph in found.graphs.items():
        if graph.file not in found.files or found.files[graph.file].sha256 != graph.sha256:
            raise BundleError(f"{path}: graphs.{name} and files disagree about {graph.file}; export the bundle again")
    return found


def _graph(entry: _Reader) -> Graph:
    return Graph(
        file=entry.take("file", str),
        sha256=entry.take("sha256", str),
        parity_db=entry.take("parity_db", float),
        relative_error=entry.take("relative_error", float),
        sizes=entry.texts("sizes"),
    )


def _file(entry: _Reader) -> File:
    return File(size=entry.take("size", int), sha256=entry.take("sha256", str))
