"""Every tier of every engine against the plain torch engine: one process, one run, taking turns.

Turns are what makes ratios of a noisy machine worth something: in each round every engine does the same work once, in
an order that changes, and ratios are taken within a round. Loading and memory are measured apart, each in a process of
its own, since engines side by side share neither.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sa3_bench import limits, process, stages, work
from sa3_bench import machine as computer
from sa3_bench.cases import Case, kind_of_weights
from sa3_bench.observed import Observed, tokenizer_of
from sa3_bench.plain import Plain
from sa3_engines import bundle, choosing, models, processor, selection
from sa3_engines.engine import Engine, Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_engines.tiers import TIERS
from sa3_runtime import lengths
from sa3_runtime.files import write_atomic
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request

PLAIN = "torch fp32, plain"
DEVICE = "cpu"  # tiers are for processors, also where torch would rather take a GPU
PROMPT = "lo-fi hip hop with a warm bass line and slow drums, 85 BPM"


@dataclass(frozen=True, kw_only=True)
class Asked:
    model: str
    durations: Sequence[float] = (5.0, 30.0, 120.0)
    backends: Sequence[str] = ("torch", "onnx", "openvino")
    only: Sequence[str] = ()  # of the tiers; empty: all
    rounds: int = 3
    steps: int = 8
    threads: int | None = None
    memory: bool = True  # also load each by itself


@dataclass(kw_only=True)
class Entry:
    """One engine in one tier."""

    name: str
    backend: str
    precision: str  # as asked
    type: str = ""
    load_seconds: float | None = None  # warm, until all graphs are open, in a process of its own
    peak_mb: dict[str, float] = field(default_factory=dict[str, float])  # by duration
    stages: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict[str, dict[str, dict[str, Any]]])


Say = Callable[[str], None]
Keep = Callable[[dict[str, Any]], object]


def entries(asked: Asked) -> list[Entry]:
    """The plain engine first, then torch with the savings, then all tiers that the model's bundles hold."""
    found = [Entry(name=PLAIN, backend="torch", precision="fp32")] if "torch" in asked.backends else []
    source = models.locate(asked.model)
    for backend in asked.backends:
        if backend == "torch":
            found.append(Entry(name="torch fp32", backend="torch", precision="fp32"))
            continue
        folder = choosing.of(source, backend)
        if folder is None or selection.load(backend).why_not() is not None:
            continue
        held = bundle.load(folder)
        for name in asked.only or TIERS:
            try:
                tier = choosing.choose(held, name, processor.flags())[1]
            except BackendUnavailable:
                continue
            found.append(Entry(name=f"{backend} {name}", backend=backend, precision=name, type=tier.type))
    if len(found) < 2:
        raise InvalidRequest(
            f"{asked.model} has nothing to compare; run: sa3-export --model {asked.model} --target onnx"
        )
    return found


def measure(asked: Asked, say: Say, keep: Keep = lambda _: None) -> dict[str, Any]:
    """keep: is given what there is so far, after everything that took minutes."""
    source = models.locate(asked.model)
    found = entries(asked)
    machine = limits.measure(asked.threads)

    def so_far() -> dict[str, Any]:
        return {
            "machine": computer.identity(),
            "asked": asdict(asked),
            "limits": machine,
            "entries": [asdict(entry) for entry in found],
        }

    opened: dict[str, Engine] = {}
    try:
        for entry in found:
            say(f"opening {entry.name}")
            base = next((opened[e.name] for e in found if e.backend == "torch" and e.name in opened), None)
            opened[entry.name] = (
                base
                if entry.backend == "torch" and base is not None
                else selection.open_engine(
                    source, entry.backend, Options(device=DEVICE, precision=entry.precision, threads=asked.threads)
                )[0]
            )
        for seconds in asked.durations:
            _graphs(asked, found, opened, seconds, machine, say)
            keep(so_far())
            _whole(asked, source, found, opened, seconds, say)
            keep(so_far())
    finally:
        for engine in {id(engine): engine for engine in opened.values()}.values():
            engine.close()
    opened.clear()
    gc.collect()
    if asked.memory:
        for entry in found:
            _alone(asked, entry, say)
            keep(so_far())
    return so_far()


def _case(asked: Asked, entry: Entry, seconds: float) -> Case:
    source = models.locate(asked.model)
    return Case(
        model=asked.model,
        weights=kind_of_weights(source),
        source=asked.model,
        seconds=seconds,
        backend=entry.backend,
        precision=entry.precision,
        device=DEVICE,
        threads=asked.threads,
        steps=asked.steps,
    )


def _turns(names: Sequence[str], rounds: int) -> Iterable[Sequence[str]]:
    """One round to warm up, then each beginning with another engine."""
    for index in range(rounds + 1):
        start = index % len(names)
        yield [*names[start:], *names[:start]]


def _graphs(
    asked: Asked, found: Sequence[Entry], opened: dict[str, Engine], seconds: float, machine: dict[str, Any], say: Say
) -> None:
    for graph in stages.GRAPHS:
        say(f"{graph} at {seconds:g} s")
        taking = [entry for entry in found if entry.name != PLAIN]
        seen = {e.name: Observed(opened[e.name]) for e in taking}
        given = {e.name: stages.inputs(seen[e.name], _case(asked, e, seconds), graph) for e in taking}
        times: dict[str, list[float]] = {entry.name: [] for entry in taking}
        flops = {e.name: _flops(seen[e.name], graph, given[e.name]) for e in taking}
        for turn, order in enumerate(_turns([entry.name for entry in taking], asked.rounds)):
            for name in order:
                start = time.perf_counter()
                opened[name].run(graph, given[name])
                if turn:
                    times[name].append(time.perf_counter() - start)
        for entry in taking:
            best = min(times[entry.name])
            peak, which = limits.peak(machine, entry.type or "fp32")
            entry.stages.setdefault(f"{seconds:g}", {})[graph] = {
                "seconds": times[entry.name],
                "share_of_peak": flops[entry.name] / best / 1e9 / peak,
                "peak": which,
            }


def _flops(engine: Observed, graph: str, given: Any) -> float:
    engine.run(graph, given)  # also warms up
    call = engine.calls[-1]
    return work.count(engine.config, call.graph, call.sizes).flops


def _whole(
    asked: Asked, source: models.Source, found: Sequence[Entry], opened: dict[str, Engine], seconds: float, say: Say
) -> None:
    say(f"whole clips of {seconds:g} s")
    request = Request(prompt=PROMPT, seconds=seconds, steps=asked.steps, cfg_scale=1.0, seed=1)
    config = source.config
    made = lengths.frames(config, [seconds], request.padding_seconds, config.sample_size)
    pipelines = {
        e.name: Pipeline(
            Plain(opened[e.name], made) if e.name == PLAIN else opened[e.name], source, tokenizer_of(source)
        )
        for e in found
    }
    whole = replace(request, chunked_decode=False)
    times: dict[str, list[float]] = {entry.name: [] for entry in found}
    rounds = asked.rounds if seconds <= 30 else min(2, asked.rounds)
    for order in list(_turns([entry.name for entry in found], rounds))[1:]:  # the graphs are warm already
        for name in order:
            start = time.perf_counter()
            pipelines[name].generate(whole if name == PLAIN else request)
            times[name].append(time.perf_counter() - start)
            say(f"  {name}: {times[name][-1]:.2f} s")
    for entry in found:
        entry.stages.setdefault(f"{seconds:g}", {})["generate"] = {"seconds": times[entry.name]}


def _alone(asked: Asked, entry: Entry, say: Say) -> None:
    """Load time and peak memory in a fresh process, at each duration."""
    if entry.name == PLAIN:
        return
    for seconds in asked.durations:
        say(f"memory of {entry.name} at {seconds:g} s")
        flags = {
            "model": asked.model,
            "backend": entry.backend,
            "device": DEVICE,
            "precision": entry.precision,
            "seconds": f"{seconds:g}",
            "steps": "2",
        }
        flags |= {"threads": str(asked.threads)} if asked.threads else {}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-m", "sa3_bench", "once", "--reload", *words]
        answer = process.last_json(command, 3600)
        run = answer["runs"][-1]
        entry.peak_mb[f"{seconds:g}"] = run["peak_rss_mb"]
        entry.load_seconds = answer["load"]["warm"]


def write(found: dict[str, Any], folder: Path, name: str) -> list[Path]:
    files = [folder / f"{name}.json", folder / f"{name}.md"]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(files[0], (json.dumps(found, indent=1) + "\n").encode())
    write_atomic(files[1], text(found).encode())
    return files


def text(found: dict[str, Any]) -> str:
    """Markdown: times, and ratios to the plain engine or, for single graphs, to torch."""
    lines: list[str] = []
    durations = [f"{seconds:g}" for seconds in found["asked"]["durations"]]
    rows = found["entries"]
    for stage in ("generate", *stages.GRAPHS):
        base = rows[0] if stage == "generate" else next((r for r in rows if r["name"] != PLAIN), rows[0])
        lines += ["", f"### {stage}", "", "| engine | " + " | ".join(f"{d} s" for d in durations) + " |"]
        lines.append("|---" * (len(durations) + 1) + "|")
        for row in rows:
            cells = [_cell(row, base, d, stage) for d in durations]
            if any(cells):
                lines.append(f"| {row['name']} {row['type']} | " + " | ".join(cells) + " |")
    return "\n".join((*lines[1:], *_memory(rows, durations))) + "\n"


def _memory(rows: Sequence[dict[str, Any]], durations: Sequence[str]) -> list[str]:
    """Nothing where it was left out."""
    measured = [row for row in rows if row["peak_mb"]]
    columns = ("engine", "load, warm", *(f"peak at {d} s" for d in durations))
    lines = ["", "### memory and loading", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in measured:
        load = "-" if row["load_seconds"] is None else f"{row['load_seconds']:.2f} s"
        peaks = [f"{row['peak_mb'][d]:,.0f} MB" if d in row["peak_mb"] else "-" for d in durations]
        lines.append(f"| {row['name']} | {load} | " + " | ".join(peaks) + " |")
    return lines if measured else []


def _cell(row: dict[str, Any], base: dict[str, Any], duration: str, stage: str) -> str:
    own, other = (r["stages"].get(duration, {}).get(stage) for r in (row, base))
    if own is None or other is None:
        return ""
    ratio = statistics.median(b / a for a, b in zip(own["seconds"], other["seconds"], strict=False))
    best = min(own["seconds"])
    shown = f"{best:.2f} s" if best >= 1 else f"{1000 * best:.1f} ms"
    share = f", {100 * own['share_of_peak']:.0f} %" if stage == "step" else ""
    return f"{shown}, {ratio:.2f}x{share}"
