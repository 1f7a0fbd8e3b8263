"""Which of a model's bundles a backend runs, and which tier of it; where there is none, what to run for one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from sa3_engines import advice, bundle, models, processor, tiers
from sa3_engines.bundle import CLIP, Bundle, Tier
from sa3_engines.engine import CODEC, GRAPHS
from sa3_engines.errors import BackendUnavailable, BundleError, CheckpointError
from sa3_engines.models import CONFIG, MANIFEST, NOTICES, Source


def of(source: Source, backend: str, precision: str = "auto") -> Path | None:
    """The folder of the bundle that a backend can run, among those of a model: the first that holds what is asked for,
    if there is one with all graphs, else with some, else the first. One whose manifest cannot be read may be for any
    backend: opening it says what is wrong with it.
    """
    asked, fitting, broken = tiers.ask(precision), list[tuple[bool, bool, int, Path]](), list[Path]()
    for place, folder in enumerate(source.bundles):
        try:
            found = bundle.load(folder)
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
        with bundle.hashes() as known:
            for name, path in models.files(source).items():
                # The configuration of a part of a model says so in the bundle alone; a licence changes no sound.
                if (name == CONFIG and source.config.dit is None) or any(fnmatch(name, one) for one in NOTICES):
                    continue
                held = found.files.get(name)
                if held is None or path.stat().st_size != held.size or known.sha256(path) != held.sha256:
                    return path
    except OSError as e:
        raise CheckpointError(f"{e.filename} cannot be read: {e.strerror}") from e
    return None


def exported(source: Source, backend: str) -> Path | None:
    """A bundle for a backend, be it of what the checkpoint holds now or held before."""
    for folder in source.bundles:
        with contextlib.suppress(BundleError):
            if backend in bundle.load(folder).backends:
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
        held = bundle.load(folder).graphs
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
        if source.folder is None:
            return "random weights are graphs only once exported"
        graphs = f": there are graphs and no {MANIFEST}" if bundle.holds_graphs(source.folder) else ""
        return f"{source.folder} is no bundle{graphs}"
    if (folder := exported(source, backend)) is not None:
        return f"{folder} was exported from another {_changed(source, folder, bundle.load(folder))}"
    folder = source.bundles[0]
    return f"{folder} was exported for {', '.join(bundle.load(folder).backends)}"


def to_run(source: Source, target: str, precision: str) -> str:
    """The export that brings a precision. What an earlier one made stays only if it is asked for again."""
    held: dict[str, set[str]] = {}
    for folder in source.bundles:
        with contextlib.suppress(BundleError):
            found = bundle.load(folder)
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
    found = bundle.read(folder)
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
        found = bundle.load(folder)
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
