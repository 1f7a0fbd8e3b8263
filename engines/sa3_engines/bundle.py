"""A bundle is a checkpoint folder plus graphs in one or more tiers of precision, and a manifest that says what they are
and how well they agree with the reference.

The manifest is written last: a folder without one is unfinished. Files are checked whenever a bundle is opened: by
size, and by content unless size and time are those of a check that is remembered; `deep` checks all content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, cast

from sa3_engines import advice, files, models, processor, remembered, tiers
from sa3_engines.engine import CODEC, GRAPHS
from sa3_engines.errors import BackendUnavailable, BundleError, CheckpointError
from sa3_engines.models import CONFIG, MANIFEST, NOTICES, TEXT_FILES, WEIGHTS, Source

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


def of(source: Source, backend: str, precision: str = "auto") -> Path | None:
    """The folder of the bundle that a backend can run, among those of a model: the first that holds what is asked for,
    if there is one with all graphs, else with some, else the first. One whose manifest cannot be read may be for any
    backend: opening it says what is wrong with it.
    """
    asked, fitting, broken = tiers.ask(precision), list[tuple[bool, bool, int, Path]](), list[Path]()
    for place, folder in enumerate(source.bundles):
        try:
            found = load(folder)
        except BundleError:
            broken.append(folder)
            continue
        if backend in found.backends and _changed(source, folder, found) is None:
            holds = any(asked.meets(name, tier.type) for name, tier in found.tiers.items())
            fitting.append((not holds, not _is_whole(source, found), place, folder))
    return min(fitting)[-1] if fitting else next(iter(broken), None)


def _changed(source: Source, folder: Path, found: Bundle) -> Path | None:
    """A file of the checkpoint that is not, or no longer, what the bundle was exported from."""
    if source.folder in (None, folder) or not source.has_weights:
        return None
    try:
        with _hashes() as hashes:
            for name, path in models.files(source).items():
                # The configuration of a part of a model says so in the bundle alone; a licence changes no sound.
                if (name == CONFIG and source.config.dit is None) or any(fnmatch(name, one) for one in NOTICES):
                    continue
                held = found.files.get(name)
                if held is None or path.stat().st_size != held.size or hashes.sha256(path) != held.sha256:
                    return path
    except OSError as e:
        raise CheckpointError(f"{e.filename} cannot be read: {e.strerror}") from e
    return None


def _hashes() -> remembered.Hashes:
    return remembered.Hashes(models.cache_folder() / "checked.json")


def exported(source: Source, backend: str) -> Path | None:
    """A bundle for a backend, be it of what the checkpoint holds now or held before."""
    for folder in source.bundles:
        with contextlib.suppress(BundleError):
            if backend in load(folder).backends:
                return folder
    return None


def lacks(source: Source, backend: str, precision: str = "auto", needs: Collection[str] = ()) -> tuple[str, ...]:
    """The graphs that what a backend would run does not hold, of those that are needed; by default of all the model
    has.
    """
    folder = of(source, backend, precision)
    if folder is None:
        return ()
    try:
        held = load(folder).graphs
    except BundleError:  # opening it says what is wrong
        return ()
    return tuple(graph for graph in needs or _all(source) if graph not in held)


def _all(source: Source) -> Sequence[str]:
    return GRAPHS if source.config.dit is not None else CODEC


def _is_whole(source: Source, found: Bundle) -> bool:
    return set(found.graphs) >= set(_all(source))


def why_not(source: Source, backend: str, precision: str = "auto") -> str | None:
    """None where a backend has a bundle of the model; else why not, and what to do for one with that precision."""
    if of(source, backend) is not None:
        return None
    return f"{_missing(source, backend)}; {to_run(source, backend, precision)}"


def _missing(source: Source, backend: str) -> str:
    if not source.bundles:
        return "random weights are graphs only once exported" if not source.folder else f"{source.folder} is no bundle"
    if (folder := exported(source, backend)) is not None:
        return f"{folder} was exported from another {_changed(source, folder, load(folder))}"
    folder = source.bundles[0]
    return f"{folder} was exported for {', '.join(load(folder).backends)}"


def to_run(source: Source, target: str, precision: str) -> str:
    """The export that brings a precision. What an earlier one made stays only if it is asked for again."""
    held: dict[str, set[str]] = {}
    for folder in source.bundles:
        with contextlib.suppress(BundleError):
            found = load(folder)
            held.setdefault(found.target, set()).update(found.tiers)
    return advice.export(as_typed(source), target, precision, held, processor.flags())


def as_typed(source: Source) -> str:
    """What a user would write for this model."""
    by_name = source.seed is not None or source.name == "nano" or source.name in models.RELEASED or source.repo
    typed = source.name if by_name else str(source.folder)
    return f'"{typed}"' if " " in typed else typed


def opened(source: Source, backend: str, precision: str, memory: str = "normal") -> tuple[Path, Bundle, str, Tier]:
    """The checked bundle for a backend, and the tier of it that was asked for; with little memory and no tier named,
    the smallest.
    """
    folder = of(source, backend, precision)
    if folder is None:
        raise BackendUnavailable(why_not(source, backend, precision) or "")
    found = read(folder)
    have = processor.flags()
    if memory == "low" and precision == "auto":
        runnable = {name: tier for name, tier in found.tiers.items() if have.issuperset(tier.instructions)}
        name = min(runnable, key=lambda name: tiers.BITS[runnable[name].type], default=None)
        if name is not None:
            return folder, found, name, runnable[name]
    try:
        return folder, found, *choose(found, precision, have)
    except Lacks as e:
        raise BackendUnavailable(f"{e}; {to_run(source, found.target, precision)}") from e


def expected_seconds(source: Source, backend: str, precision: str, needs: Collection[str] = ()) -> float:
    """How long a usual clip would take, or as many as are needed of its graphs, by what was measured at export;
    infinite where nothing is known of this machine.
    """
    folder = of(source, backend, precision)
    if folder is None:
        return math.inf
    try:
        found = load(folder)
        _, tier = choose(found, precision, processor.flags())
    except (BackendUnavailable, BundleError):
        return math.inf
    return tier.seconds_of(needs or CLIP) if found.measured_on == processor.described() else math.inf


class Lacks(BackendUnavailable):
    """What a bundle does not hold, another export may."""


def choose(found: Bundle, precision: str, have: Collection[str]) -> tuple[str, Tier]:
    """The tier that was asked for, by its name or its number type; for `auto` the fastest that keeps what `high`
    promises. `have` is what the processor can do.
    """
    asked = tiers.ask(precision)
    holds = ", ".join(f"{name} ({tier.type})" for name, tier in found.tiers.items())
    fitting = {name: tier for name, tier in found.tiers.items() if asked.meets(name, tier.type)}
    if not fitting and precision == "auto":
        raise BackendUnavailable(
            f"the {found.target} bundle of {found.model} holds only {holds}, which auto never takes: name it with "
            "--precision"
        )
    if not fitting and precision == "int4" and tiers.COMPACT in found.tiers:
        raise BackendUnavailable(
            f"the {found.target} bundle of {found.model} has no precision 'int4', only {holds}: four bits are for "
            "large layers, of which this model has none; take compact"
        )
    if not fitting:
        raise Lacks(f"the {found.target} bundle of {found.model} has no precision {precision!r}, only {holds}")
    runnable = {name: tier for name, tier in fitting.items() if set(tier.instructions) <= set(have)}
    if not runnable:
        name, tier = next(iter(fitting.items()))
        missing = ", ".join(sorted(set(tier.instructions) - set(have)))
        raise Lacks(
            f"precision {name} ({tier.type}) of the {found.target} bundle of {found.model} needs {missing}, which this "
            f"machine's processor lacks; it holds {holds}"
        )
    return min(runnable.items(), key=lambda one: one[1].clip_seconds)


def read(folder: Path, *, deep: bool = False) -> Bundle:
    """The bundle in a folder, its files checked."""
    found = load(folder)
    with _hashes() as hashes:
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
                same = hashes.sha256(path, again=deep) == file.sha256
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


def load(folder: Path) -> Bundle:
    """The manifest alone."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        graphs = folder.is_dir() and any((*folder.glob("*.onnx"), *folder.glob("*.xml")))
        what = "is unfinished: there are graphs and" if graphs else "is not a bundle: there is"
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
