"""One case measured in this process: load, a run that is not timed, and runs that are, with their stages and memory.

Its callers start a process for every case, so that no case profits or suffers from another.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sa3_bench import energy, memory, stages, work
from sa3_bench.cases import Case
from sa3_bench.observed import Call, Observed, tokenizer_of
from sa3_engines import models, selection
from sa3_engines.engine import Options, Support
from sa3_engines.errors import BadOutput
from sa3_runtime.generation import Generation
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.watching import Progress, Watch

MEGA = 1e6
ENOUGH = 2  # runs that are made however long they take


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a case is measured."""

    repeat: int = 1
    warmup_steps: int | None = None  # of the run that is not timed; None: as many as the others
    most_seconds: float = float("inf")  # after which no further run is begun
    encode: bool = False  # also time the encoder over as much sound
    reload: bool = False  # load a second time at the end, to time it warm
    audio: Path | None = None  # where the clip goes, as .npy
    parity: Path | None = None  # where the graphs' answers to fixed inputs go, as .npz
    tell: Callable[[str], None] = field(default=lambda _: None)


def open_pipeline(case: Case) -> tuple[Pipeline, Observed]:
    """What `Pipeline.load` does, with the engine observed."""
    source = models.locate(case.opened)
    options = Options(device=case.device, precision=case.precision, threads=case.threads)
    engine, choice = selection.open_engine(source, case.backend, options)
    observed = Observed(engine)
    return Pipeline(observed, source, tokenizer_of(source), choice), observed


def measure(case: Case, wanted: Wanted, begun: float | None = None) -> dict[str, Any]:
    """begun: when this process started, as perf_counter counts, for the load with its imports."""
    begun = time.perf_counter() if begun is None else begun
    wanted.tell(f"loading {case.opened}")
    pause = time.perf_counter()
    evicted = _evict(case)
    begun += time.perf_counter() - pause
    pipeline, observed = open_pipeline(case)
    loaded = time.perf_counter() - begun
    with pipeline:
        device = memory.Device(observed.support.device)
        result: dict[str, Any] = {
            "case": case.as_json(),
            "support": described(observed.support),
            "load": {"cold": loaded, "cold_from": "disk" if evicted else "no files, or cached ones", "warm": None},
            "memory": {"loaded_mb": memory.resident_mb(), "load_peak_mb": memory.peak_mb()},
        }
        wanted.tell("a run that is not timed")
        first = timed(pipeline, observed, case, steps=wanted.warmup_steps)
        result["load"]["to_first_clip"] = loaded + first.seconds  # some engines load what they need when they need it
        runs, last = _runs(pipeline, observed, case, wanted)
        result["memory"] |= {"device_mb": device.peak_mb(), "device_reserved_mb": device.reserved_mb()}
        result |= {
            "untimed": {"generate": first.seconds, "steps": wanted.warmup_steps or case.steps},
            "runs": runs,
            "work": _work(observed, last.calls),
            "output": _output(last.generation),
        }
        if wanted.encode:
            wanted.tell("the encoder")
            result["work"]["encode"] = stages.encode(observed, case)
        _keep(pipeline, last.generation, wanted)
    if wanted.reload:
        wanted.tell("loading once more")
        start = time.perf_counter()
        again, observed = open_pipeline(case)
        spent = time.perf_counter() - start
        with again:
            result["load"]["warm"] = spent + stages.opening(observed, case)
    return result


@dataclass(frozen=True, kw_only=True)
class Timed:
    generation: Generation
    seconds: float
    first_audio: float | None
    calls: list[Call]


def timed(pipeline: Pipeline, observed: Observed, case: Case, steps: int | None = None) -> Timed:
    """One request from string to host array, checked."""
    heard: list[float] = []

    def progress(at: Progress) -> None:
        if at.stage == "decode" and at.done:
            heard.append(time.perf_counter())

    request = case.request(steps)
    before = len(observed.calls)
    start = time.perf_counter()
    generation = pipeline.generate(request, Watch(progress=progress))
    seconds = time.perf_counter() - start
    check(generation, case)
    first = heard[0] - start if heard else None
    return Timed(generation=generation, seconds=seconds, first_audio=first, calls=observed.calls[before:])


def check(generation: Generation, case: Case) -> None:
    """No time counts before the right number of samples of the right seed is there."""
    rate = generation.sounds[0].rate
    shapes = [sound.samples.shape for sound in generation.sounds]
    expected = int(case.seconds * rate)
    if len(shapes) != case.batch or any(shape[1] != expected for shape in shapes):
        raise BadOutput("the pipeline", f"{shapes} samples where {case.batch} of (2, {expected}) were asked for")
    if generation.plan.seed != case.seed:
        raise BadOutput("the pipeline", f"a clip of seed {generation.plan.seed} where {case.seed} was asked for")


def _runs(pipeline: Pipeline, observed: Observed, case: Case, wanted: Wanted) -> tuple[list[dict[str, Any]], Timed]:
    meter = energy.Meter(observed.support.device)
    device = memory.Device(observed.support.device)
    runs: list[dict[str, Any]] = []
    one: Timed | None = None
    peak = memory.peak_mb() or 0.0
    start = time.perf_counter()
    for index in range(wanted.repeat):
        if index >= ENOUGH and time.perf_counter() - start > wanted.most_seconds:
            break
        wanted.tell(f"run {index + 1} of {wanted.repeat}")
        fresh = memory.reset()
        device.reset()
        began = time.time()
        meter.start()
        one = timed(pipeline, observed, case)
        joules = dict(meter.stop())
        run_peak = memory.peak_mb()
        peak = max(peak, run_peak or 0.0)
        runs.append(
            _stages(one)
            | {
                "T": one.generation.latents.shape[2],
                "seconds": case.seconds,
                "samples": int(one.generation.audio.shape[2]),
                "peak_rss_mb": peak or None,
                "run_peak_rss_mb": run_peak if fresh else None,
                "device_peak_mb": device.peak_mb(),
                "joules": joules or None,
                "no_joules": meter.why_not or None,
                "started": began,
                "crc32": zlib.crc32(one.generation.audio.tobytes()),
            }
        )
    assert one is not None
    return runs, one


def _stages(one: Timed) -> dict[str, Any]:
    spent = one.generation.seconds_spent
    graphs: dict[str, list[float]] = {}
    for call in one.calls:
        graphs.setdefault(call.graph, []).append(call.seconds)
    return {
        "t5": spent["text"],
        "prepare": sum(graphs.get("prepare", [])),
        "step": float(np.median(graphs["step"])),
        "loop": spent["sample"],
        "decode": spent["decode"],
        "finish": spent["finish"],
        "generate": one.seconds,
        "first_audio": one.first_audio,
    }


def _work(observed: Observed, calls: list[Call]) -> dict[str, dict[str, float]]:
    """What each graph had to do in one run, and how long it took in that run."""
    found: dict[str, dict[str, float]] = {}
    precision = observed.support.precision
    for call in calls:
        one = work.count(observed.config, call.graph, call.sizes, precision)
        entry = found.setdefault(call.graph, {"calls": 0, "flops": 0, "bytes": 0, "seconds": 0.0})
        entry["calls"] += 1
        entry["flops"] += one.flops
        entry["bytes"] += one.bytes
        entry["seconds"] += call.seconds
    return found


def _output(generation: Generation) -> dict[str, Any]:
    audio = generation.audio
    return {
        "shape": list(audio.shape),
        "rate": generation.sounds[0].rate,
        "peak": float(np.abs(audio).max()),
        "warnings": generation.warnings,
    }


def _keep(pipeline: Pipeline, generation: Generation, wanted: Wanted) -> None:
    if wanted.audio is not None:
        np.save(wanted.audio, generation.audio[0])
    if wanted.parity is not None:
        from sa3_bench import quality

        wanted.tell("answers to fixed inputs")
        np.savez(wanted.parity, **quality.answers(pipeline))  # pyright: ignore[reportArgumentType]


def described(support: Support) -> dict[str, Any]:
    values = asdict(support)
    return {name: values[name] for name in ("backend", "device", "precision", "versions")}


def _evict(case: Case) -> bool:
    """Asks the system to drop the model's files from its cache, so that they are read from the disk again."""
    folder = models.locate(case.opened).folder
    if folder is None or not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    return True
