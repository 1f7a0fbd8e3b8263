"""Tries every backend and device with a real graph, each in a process of its own, so that a crash is a finding."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sa3_engines import bundle, models, processor, selection
from sa3_engines.errors import BackendUnavailable, BundleError, Sa3Error
from sa3_runtime import machine
from sa3_runtime.machine import Machine
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request

T = TypeVar("T")
LATENTS = 8
TIMEOUT = 300.0  # seconds for one probe


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One backend on one device."""

    backend: str
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str | None = None  # None: it ran
    model: str = ""  # what it ran; random weights where the model is not in a form this backend reads
    seconds: float | None = None  # of the decode graph, warm
    generated: float | None = None  # of a whole generation, in a deep look


@dataclass(frozen=True, kw_only=True)
class Auto:
    """What is taken when nothing is said, and whether it makes sound."""

    model: str
    problem: str | None = None
    exit_code: int = 0  # of what is wrong
    backend: str = ""
    device: str = ""
    precision: str = ""
    refused: tuple[str, ...] = ()
    seconds_to_load: float | None = None
    seconds_to_make: float | None = None  # one second of sound


@dataclass(frozen=True, kw_only=True)
class TierSeen:
    name: str
    type: str
    cosine: float  # the worst graph's
    snr_db: float
    step_seconds: float | None
    problem: str | None = None  # why this machine cannot run it


@dataclass(frozen=True, kw_only=True)
class Export:
    """A bundle on this machine, and what its manifest says of each tier."""

    folder: str
    problem: str | None = None  # None: its files are as they were exported
    model: str = ""
    backends: tuple[str, ...] = ()
    seconds: str = ""
    measured_on: str = ""
    tiers: list[TierSeen] = field(default_factory=list[TierSeen])


@dataclass(frozen=True, kw_only=True)
class Report:
    machine: Machine
    probes: list[Probe]
    bundles: list[Export]
    auto: Auto

    @property
    def healthy(self) -> bool:
        return self.auto.problem is None


def examine(model: str = "nano", *, deep: bool = False, tell: Callable[[str], None] = lambda _: None) -> Report:
    """`tell` hears what is being tried, since some of it takes a while."""
    probes: list[Probe] = []
    for name in selection.names():
        tell(name)
        try:
            seen, devices = isolated(survey, name)
        except Failed as e:
            seen, devices = Probe(backend=name, problem=str(e)), []
        for device in devices:
            tell(f"{name} on {device}")
            try:
                probes.append(isolated(probe, seen, device, model, deep))
            except Failed as e:
                probes.append(replace(seen, device=device, problem=str(e)))
        probes += [] if devices else [seen]
    tell(f"{model} with nothing chosen")
    try:
        auto = isolated(try_auto, model)
    except Failed as e:
        auto = Auto(model=model, problem=str(e), exit_code=e.exit_code)
    tell("bundles")
    found = exports(model, deep=deep)
    if auto.problem is None and (problem := _broken(model, found)) is not None:
        auto = replace(auto, problem=problem, exit_code=BundleError.exit_code)
    return Report(machine=machine.look(), probes=probes, bundles=found, auto=auto)


def _broken(model: str, found: list[Export]) -> str | None:
    """What is wrong with a bundle of the model, which a quick look may not see."""
    folders = {str(folder) for folder in models.locate(model).bundles}
    return next((one.problem for one in found if one.problem is not None and one.folder in folders), None)


def exports(model: str, *, deep: bool) -> list[Export]:
    """The bundles of a model, nano's, and all in the cache folder; deep reads every file of them."""
    usual = sorted((models.cache_folder() / "bundles").glob("*/"))
    folders = [models.HERE / "nano", *(folder for folder in usual if not folder.name.startswith("."))]
    with contextlib.suppress(Sa3Error):  # what is wrong with it is told by what was tried with it
        folders += [folder for folder in models.locate(model).bundles if folder not in folders]
    return [_export(folder, deep=deep) for folder in folders]


def _export(folder: Path, *, deep: bool) -> Export:
    try:
        found = bundle.read(folder, deep=deep)
    except Sa3Error as e:
        return Export(folder=str(folder), problem=str(e))
    have = processor.flags()
    seen: list[TierSeen] = []
    for name, tier in found.tiers.items():
        missing = ", ".join(sorted(set(tier.instructions) - have))
        seen.append(
            TierSeen(
                name=name,
                type=tier.type,
                cosine=min(graph.cosine for graph in tier.graphs.values()),
                snr_db=min(graph.snr_db for graph in tier.graphs.values()),
                step_seconds=tier.seconds.get("step"),
                problem=f"this processor has no {missing}" if missing else None,
            )
        )
    return Export(
        folder=str(folder),
        model=found.model,
        backends=found.backends,
        seconds=str(found.profile),
        measured_on=found.measured_on,
        tiers=seen,
    )


def survey(name: str) -> tuple[Probe, list[str]]:
    backend = selection.load(name)
    if (reason := backend.why_not()) is not None:
        return Probe(backend=name, problem=reason), []
    devices = list(backend.devices())
    # "cuda" is "cuda:0" by another name.
    devices = [device for device in devices if f"{device}:0" not in devices]
    return Probe(backend=name, versions=dict(backend.versions())), devices


def probe(seen: Probe, device: str, model: str, deep: bool = False) -> Probe:
    name = _readable(seen.backend, model)
    with Pipeline.load(name, backend=seen.backend, device=device) as pipeline:
        times = [_decoded(pipeline) for _ in range(2)]  # the first run also prepares
        generated = _generated(pipeline) if deep else None
    return replace(seen, device=device, model=name, seconds=times[1], generated=generated)


def _readable(backend: str, model: str) -> str:
    """The model, or one of its shape with random weights for a backend that reads other files than it has."""
    reason = selection.load(backend).why_not_open(models.locate(model))
    if reason is None:
        return model
    random = f"random:{model}"
    if model != "nano" or selection.load(backend).why_not_open(models.locate(random)) is not None:
        raise BackendUnavailable(f"it cannot open {model}: {reason}")
    return random


def try_auto(model: str) -> Auto:
    start = time.perf_counter()
    with Pipeline.load(model) as pipeline:
        loaded = time.perf_counter() - start
        made = _generated(pipeline)
    support, choice = pipeline.engine.support, pipeline.choice
    return Auto(
        model=model,
        backend=support.backend,
        device=support.device,
        precision=support.precision,
        refused=choice.refused if choice else (),
        seconds_to_load=loaded,
        seconds_to_make=made,
    )


def _decoded(pipeline: Pipeline) -> float:
    """Seconds for the decode graph alone, on a few latents."""
    channels = pipeline.config.autoencoder.latent_channels
    latents = np.random.default_rng(0).standard_normal((1, channels, LATENTS), np.float32)
    start = time.perf_counter()
    pipeline.decode(latents)  # refuses NaN and constants
    return time.perf_counter() - start


def _generated(pipeline: Pipeline) -> float:
    """Seconds for one second of sound, with everything from the prompt to the finish."""
    if pipeline.config.dit is None:
        return _decoded(pipeline)
    shortest, longest = pipeline.limits
    start = time.perf_counter()
    pipeline.generate(Request(prompt="a bell", seconds=min(max(1.0, shortest), longest), steps=2, seed=0))
    return time.perf_counter() - start


# A process for each


class Failed(Exception):
    """Why a probe gave no answer, fit to show."""

    def __init__(self, reason: str, exit_code: int = BackendUnavailable.exit_code) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def isolated(work: Callable[..., T], *args: Any, timeout: float = TIMEOUT) -> T:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(theirs, work, args), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            raise Failed(f"no answer within {timeout:g} s")
        done, *value = ours.recv()
    except EOFError as e:
        child.join()
        raise Failed(f"it crashed ({_ending(child.exitcode)})") from e
    finally:
        child.kill()
        child.join()
        ours.close()
    if not done:
        raise Failed(*value)
    return value[0]


def _work(connection: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    os.dup2(2, 1)  # what a library says while it loads is not our answer
    try:
        answer = True, work(*args)
    except Sa3Error as e:
        answer = False, str(e), e.exit_code
    except Exception as e:  # noqa: BLE001 - whatever a broken installation raises is what is being asked about
        answer = False, f"{type(e).__name__}: {e}"
    connection.send(answer)


def _ending(code: int | None) -> str:
    try:
        return signal.Signals(-(code or 0)).name
    except ValueError:
        return f"exit code {code}"
