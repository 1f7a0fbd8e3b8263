"""A bundle is a checkpoint folder plus graphs in one or more tiers of precision, and a manifest that says what they are
and how well they agree with the reference.

The manifest is written last: a folder without one is unfinished. Files are checked whenever a bundle is opened: by
size, and by content unless size and time are those of a check that is remembered; `deep` checks all content.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from sa3_engines import files, models, remembered, tiers
from sa3_engines.engine import GRAPHS
from sa3_engines.errors import BundleError
from sa3_engines.models import CONFIG, MANIFEST, TEXT_FILES, WEIGHTS

SCHEMA = 2
STEPS = 8  # of a usual clip
CLIP = tuple(graph for graph in GRAPHS if graph != "encode")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph in one tier, and the worst of how it compared with the reference at the sizes tried."""

    file: str  # what an engine opens
    files: tuple[str, ...]  # it, and what belongs to it besides the checkpoint's own weights
    cosine: float
    snr_db: float
    relative_error: float  # largest difference over largest value
    sizes: tuple[str, ...]
    more: Mapping[str, float] = field(default_factory=dict[str, float])  # further measures, by name


@dataclass(frozen=True, kw_only=True)
class Tier:
    type: str  # the number type that keeps the promise
    instructions: tuple[str, ...]  # what a processor must have
    exact: tuple[str, ...]  # patterns of the weights whose layers stayed in fp32
    graphs: Mapping[str, Graph]
    seconds: Mapping[str, float]  # one run of each graph at the profile's usual length, on `measured_on`

    @property
    def clip_seconds(self) -> float:
        """How long a usual clip would take: all its steps, and no encoding."""
        return self.seconds_of(CLIP)

    def seconds_of(self, graphs: Collection[str]) -> float:
        """How long these graphs would take for a usual clip."""
        return sum(self.seconds.get(graph, 0.0) * (STEPS if graph == "step" else 1) for graph in graphs)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The durations a bundle was exported and compared for."""

    min_seconds: float
    opt_seconds: float
    max_seconds: float

    def __contains__(self, seconds: float) -> bool:
        return self.min_seconds <= seconds <= self.max_seconds

    def __str__(self) -> str:
        return f"{self.min_seconds:g} to {self.max_seconds:g} s"


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
    profile: Profile
    sampling: Mapping[str, Any]  # constants copied from the checkpoint's configuration, for whoever reads a manifest
    measured_on: str
    source: Origin
    built_with: Mapping[str, str]
    tiers: Mapping[str, Tier]
    files: Mapping[str, File]  # every file but the manifest, by its path from the folder
    licence: str
    recipe: str  # which version of the exporter's own code made the graphs, and from which choices
    traced: str | None = None  # which version of its code made the exact ONNX graphs, which depend on no choices

    @property
    def id(self) -> str:
        """Short, and the same for the same files."""
        listing = "".join(f"{name} {file.sha256}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()[:12]

    @property
    def graphs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(graph for tier in self.tiers.values() for graph in tier.graphs))


def hashes() -> remembered.Hashes:
    return remembered.Hashes(models.cache_folder() / "checked.json")


def read(folder: Path, *, deep: bool = False) -> Bundle:
    """The bundle in a folder, its files checked."""
    found = load(folder)
    with hashes() as known:
        for name, file in found.files.items():
            path = folder / name
            try:
                size = path.stat().st_size
            except OSError as e:
                raise BundleError(f"bundle {folder} is incomplete: {name} is missing; export it again") from e
            if size != file.size:
                raise BundleError(
                    f"bundle {folder}: {name} is {size} bytes long and should be {file.size}: it was cut off or "
                    "replaced; export it again"
                )
            try:
                same = known.is_still(path, file.sha256, again=deep)
            except OSError as e:
                raise BundleError(f"bundle {folder}: {name} cannot be read: {e.strerror}") from e
            if not same:
                raise BundleError(f"bundle {folder}: {name} was changed after the export; export it again")
    return found


class Unchanged:
    """Whether a folder still holds the bundle that was opened. Graphs are opened when they are first needed: out of one
    that took its place meanwhile they would mix two models, without a word.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened = self._stamp()

    def check(self) -> None:
        if self._stamp() != self._opened:
            raise BundleError(f"bundle {self._folder} was replaced or removed while it was open; open the model again")

    def _stamp(self) -> tuple[int, int, int] | None:
        """Every export, also one in place, writes the manifest anew, and last."""
        try:
            found = (self._folder / MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def holds_graphs(folder: Path) -> bool:
    return folder.is_dir() and any((*folder.glob("*.onnx"), *folder.glob("*.xml")))


def load(folder: Path) -> Bundle:
    """The manifest alone."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        what = "is unfinished: there are graphs and" if holds_graphs(folder) else "is not a bundle: there is"
        raise BundleError(f"{folder} {what} no {MANIFEST}; export it with sa3-export") from e
    except OSError as e:
        raise BundleError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{path} is not JSON: {e}") from e
    return _parse(raw, path)


def write(folder: Path, found: Bundle) -> None:
    """Puts the manifest into place, whole."""
    with files.replacing(folder / MANIFEST) as file:
        file.write(f"{json.dumps(asdict(found), indent=1)}\n".encode())


def describe(folder: Path, names: Iterable[str]) -> dict[str, File]:
    return {
        name: File(size=(folder / name).stat().st_size, sha256=remembered.sha256(folder / name))
        for name in sorted(names)
    }


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
            value = float(value) if abs(value) < sys.float_info.max else math.inf
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(f"is {value!r}, and should be of type {kind.__name__}", key)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(f"is {value}, which is no finite number", key)
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

    def numbers(self, key: str) -> dict[str, float]:
        inner = self.into(key)
        return {name: inner.take(name, float) for name in inner.block}

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
        profile=_profile(top.into("profile")),
        sampling=top.into("sampling").block,
        measured_on=top.take("measured_on", str),
        source=Origin(
            model=source.take("model", str),
            repo=source.take("repo", str, optional=True),
            revision=source.take("revision", str, optional=True),
            digest=source.take("digest", str),
        ),
        built_with=top.mapping("built_with"),
        tiers={name: _tier(entry) for name, entry in top.each("tiers").items()},
        files={name: _file(entry) for name, entry in top.each("files").items()},
        licence=top.take("licence", str),
        recipe=top.take("recipe", str),
        traced=top.take("traced", str, optional=True),
    )
    for name in (CONFIG, WEIGHTS):
        if name not in found.files:
            raise top.wrong(f"does not name {name}", "files")
    for name in found.files:
        # Bundles are downloaded too: none may point out of its folder.
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
            raise BundleError(f"{path}: files names {name!r}, which is not inside the bundle")
        if not inside.parts or not name.isprintable():  # no system takes NUL, or half a character
            raise top.wrong(f"names {name!r}, which is no file's name", "files")
    for name, tier in found.tiers.items():
        if name not in tiers.TIERS:
            raise top.wrong(f"names {name!r}, which is not one of {', '.join(tiers.TIERS)}", "tiers")
        if name == tiers.EXACT and tier.type != "fp32":
            raise top.wrong(f"is {tier.type!r}, and the exact tier is fp32", f"tiers.{name}.type")
        for graph, made in tier.graphs.items():
            if not tiers.FLOORS[name] <= made.cosine <= 1:
                raise top.wrong(
                    f"is {made.cosine:g}, and {name} promises {tiers.FLOORS[name]:g} to 1",
                    f"tiers.{name}.graphs.{graph}.cosine",
                )
            if tier.seconds.get(graph, -1.0) < 0:
                raise top.wrong("does not say how long a run takes", f"tiers.{name}.seconds.{graph}")
            for file in made.files:
                if file not in found.files:
                    raise top.wrong(f"names {file!r}, which is not among the files", f"tiers.{name}.graphs.{graph}")
            if made.file not in made.files:
                raise top.wrong(f"opens {made.file!r}, which is not its own", f"tiers.{name}.graphs.{graph}")
    if not found.tiers:
        raise top.wrong("is empty", "tiers")
    # Which folder the text encoder is in says the configuration.
    folders = [{name.rpartition("/")[0] for name in found.files if name.endswith(f"/{one}")} for one in TEXT_FILES[:2]]
    if "text" in found.graphs and not set.intersection(*folders):
        raise top.wrong(f"does not name the text encoder's {' and '.join(TEXT_FILES[:2])}", "files")
    return found


def _profile(entry: _Reader) -> Profile:
    found = Profile(**{key: entry.take(key, float) for key in ("min_seconds", "opt_seconds", "max_seconds")})
    if not 0 <= found.min_seconds <= found.opt_seconds <= found.max_seconds < math.inf:
        raise entry.wrong(f"is {found.min_seconds:g}, {found.opt_seconds:g}, {found.max_seconds:g}: it must go up")
    return found


def _tier(entry: _Reader) -> Tier:
    kind = entry.take("type", str)
    if kind not in tiers.BITS:
        raise entry.wrong(f"is {kind!r}, which is not one of {', '.join(tiers.BITS)}", "type")
    if not entry.into("graphs").block:
        raise entry.wrong("is empty", "graphs")
    return Tier(
        type=kind,
        instructions=entry.texts("instructions"),
        exact=entry.texts("exact"),
        graphs={name: _graph(graph) for name, graph in entry.each("graphs").items()},
        seconds=entry.numbers("seconds"),
    )


def _graph(entry: _Reader) -> Graph:
    return Graph(
        file=entry.take("file", str),
        files=entry.texts("files"),
        cosine=entry.take("cosine", float),
        snr_db=entry.take("snr_db", float),
        relative_error=entry.take("relative_error", float),
        sizes=entry.texts("sizes"),
        more=entry.numbers("more"),
    )


def _file(entry: _Reader) -> File:
    return File(size=entry.take("size", int), sha256=entry.take("sha256", str))
