"""Runs cases one after another, each in a process of its own, checks what came back, and saves after each.

A case that crashes, hangs, makes the wrong sound or is faster than the machine can be is a row with its reason.
"""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa3_bench import limits, machine
from sa3_bench.cases import Case, from_json
from sa3_bench.process import Failed, last_json
from sa3_bench.results import ERROR, OK, Results
from sa3_engines.errors import BackendUnavailable

IMPOSSIBLE = 2.0  # times the machine's own best: more than its probe can be off
CLIP_SECONDS = 8.0  # of each clip that the report plays


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, and how."""

    cases: Sequence[Case]
    repeat: int = 3
    warmup_steps: int | None = 2
    most_seconds: float = math.inf
    timeout: float = 1800.0
    allow_battery: bool = False
    quality: bool = True
    work: Path  # where clips and answers are kept between cases


def check_machine(*, allow_battery: bool) -> list[str]:
    """What is wrong with the machine now. On battery or throttled, times mislead, so that must be asked for."""
    found = machine.troubles(machine.state())
    if found and not allow_battery:
        raise BackendUnavailable(
            f"this machine is {'; '.join(found)}: mend that, or --allow-battery measures and says so"
        )
    return found


def run(plan: Plan, kept: Results, tell: Callable[[Case], None], done: Callable[[Case], None]) -> None:
    """tell: what is begun; done: what is over, or was kept from an earlier run."""
    plan.work.mkdir(parents=True, exist_ok=True)
    troubles = check_machine(allow_battery=plan.allow_battery)
    session: dict[str, Any] = {"began": machine.state() | {"noise": machine.noise()}, "ended": None}
    kept.data["sessions"].append(session | {"troubles": troubles})
    runner = Runner(plan, kept)
    for case in ordered(plan.cases):
        if not kept.fresh(case):
            tell(case)
            kept.put(case, runner.row(case))
        runner.seen(case)
        done(case)
    kept.data["sessions"][-1]["ended"] = machine.state() | {"noise": machine.noise()}
    kept.save()


def ordered(cases: Sequence[Case]) -> list[Case]:
    """Per model the reference first, since what follows is compared with it; lengths from short to long."""
    models = list(dict.fromkeys(case.model for case in cases))

    def place(case: Case) -> tuple[Any, ...]:
        return models.index(case.model), not is_reference(case), case.engine, case.batch, case.seconds

    return sorted(cases, key=place)


def is_reference(case: Case) -> bool:
    """torch in fp32, as far as the flags tell: on a GPU its own choice is fp16."""
    chosen = case.precision == "auto" and not case.device.startswith("cuda")
    return case.backend == "torch" and (chosen or case.precision == "fp32")


def column(case: Case) -> str:
    return f"{case.model} {case.weights} {case.engine}"


class Runner:
    """Knows which engines have shown already that they compute the model, and which do not."""

    def __init__(self, plan: Plan, kept: Results) -> None:
        self.plan, self.kept = plan, kept
        self._good: set[str] = set()
        self._wrong: dict[str, str] = {}

    def seen(self, case: Case) -> None:
        if self.kept.data["cases"][case.key]["status"] == OK:
            self._good.add(column(case))

    def row(self, case: Case) -> dict[str, Any]:
        if column(case) in self._wrong:
            return {"status": ERROR, "reason": self._wrong[column(case)]}
        first = column(case) not in self._good
        before = machine.state()
        row = worker(case, self.plan, self._extra(case, first=first))
        row |= {"troubles": machine.troubles(before, machine.state()), "load_average": before["load_average"]}
        if row["status"] == OK:
            reason = impossible(row["result"], self.kept.data["limits"])
            if reason is None and first and self.plan.quality:
                reason = self._compare(case, row["result"]["support"])
            if reason is not None:
                self._wrong[column(case)] = reason
                row |= {"status": ERROR, "reason": reason}
        return row

    def _extra(self, case: Case, *, first: bool) -> list[str]:
        extra = ["--encode", "--save-audio", str(audio_file(self.plan.work, case))]
        if first:
            extra.append("--reload")
        if first and self.plan.quality:
            extra += ["--save-parity", str(_parity_file(self.plan.work, case))]
        return extra

    def _compare(self, case: Case, support: Mapping[str, Any]) -> str | None:
        """Notes how near this engine's answers are to the reference's; the reason where it is another model."""
        from sa3_bench import quality

        tier = _load(_parity_file(self.plan.work, case)) or {}
        entry: dict[str, Any] = {"reference": None, **quality.codec(tier)}
        base = self._reference(case, support)
        reference = None if base is None else _load(_parity_file(self.plan.work, base))
        if base is not None and reference is not None:
            entry |= {"reference": base.engine, **quality.parity(reference, tier)}
        table = self.kept.data["quality"].setdefault(f"{case.model} {case.weights}", {})
        table[case.engine] = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in entry.items()}
        return None if entry["reference"] in (None, case.engine) else quality.wrong(entry)

    def _reference(self, case: Case, support: Mapping[str, Any]) -> Case | None:
        """The case that torch really ran in fp32, which may be this one."""
        rows = self.kept.data["cases"].values()
        done = [(from_json(row["case"]), row["result"]["support"]) for row in rows if row["status"] == OK]
        for one, how in [(case, support), *done]:
            if (one.model, one.weights, how["backend"], how["precision"]) == (
                case.model,
                case.weights,
                "torch",
                "fp32",
            ):
                return one
        return None


def worker(case: Case, plan: Plan, extra: Sequence[str]) -> dict[str, Any]:
    """The case in a process of its own, and its verdict."""
    command = [sys.executable, "-m", "sa3_bench", "once", *flags(case), "--repeat", str(plan.repeat), *extra]
    if plan.warmup_steps is not None:
        command += ["--warmup-steps", str(plan.warmup_steps)]
    if math.isfinite(plan.most_seconds):
        command += ["--most-seconds", f"{plan.most_seconds:g}"]
    try:
        return judged(case, last_json(command, plan.timeout))
    except Failed as e:
        return {"status": ERROR, "reason": str(e)}


def flags(case: Case) -> list[str]:
    """A case as `sa3-bench once` is told it."""
    values: Mapping[str, Any] = {
        "--model": case.model,
        "--source": case.source or None,
        "--weights-are": case.weights,
        "--seconds": f"{case.seconds:g}",
        "--steps": case.steps,
        "--batch": case.batch,
        "--backend": case.backend,
        "--precision": case.precision,
        "--device": case.device,
        "--threads": case.threads,
        "--seed": case.seed,
        "--padding": f"{case.padding:g}",
    }
    found = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    return found if case.chunked else [*found, "--whole-decode"]


def judged(case: Case, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A result counts when its times are times and it made what was asked for."""
    runs = answer.get("runs")
    if not isinstance(runs, list) or not runs:
        return {"status": ERROR, "reason": "it measured no run"}
    for one in runs:
        seconds = one.get("generate")
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            return {"status": ERROR, "reason": f"it measured a time of {seconds!r}"}
    made = {one.get("samples") for one in runs}
    rate = answer.get("output", {}).get("rate")
    if rate is not None and made != {int(case.seconds * rate)}:
        found = ", ".join(sorted(map(str, made)))
        return {"status": ERROR, "reason": f"it made {found} samples where {int(case.seconds * rate)} were asked for"}
    notes = [] if len({one.get("crc32") for one in runs}) == 1 else ["runs of one seed differ"]
    return {"status": OK, "result": dict(answer), "notes": notes}


def impossible(result: Mapping[str, Any], measured: Mapping[str, Any]) -> str | None:
    """An engine that beats the arithmetic the machine can do leaves some of it out."""
    found = measured.get("cuda" if result["support"]["device"].startswith("cuda") else "cpu")
    if not found:
        return None
    for graph, precision in (("step", result["support"]["precision"]), ("decode", "fp32")):
        gflops, which = limits.peak(found, precision)
        work = result["work"].get(graph)
        # A precision the probe does not know may well be faster than those it does.
        if work is None or not which.endswith(precision):
            continue
        least = work["flops"] / gflops / 1e9
        if least > IMPOSSIBLE * work["seconds"]:
            return (
                f"leaves something out: {graph} took {work['seconds']:.3g} s, and its arithmetic takes this machine "
                f"{least:.3g} s at best"
            )
    return None


# What is kept between cases


def _named(folder: Path, text: str, suffix: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{suffix}"


def audio_file(folder: Path, case: Case) -> Path:
    return _named(folder, case.key, ".npy")


def _parity_file(folder: Path, case: Case) -> Path:
    return _named(folder, column(case), ".npz")


def _load(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    with np.load(path) as found:
        return dict(found)


def clip(folder: Path, case: Case, rate: int) -> str | None:
    """The beginning of what a case made, as a data URI; None where it is not kept any more."""
    from sa3_runtime.audio import Sound, encode

    path = audio_file(folder, case)
    if not path.is_file():
        return None
    samples = np.load(path)[:, : int(CLIP_SECONDS * rate)]
    return "data:audio/mpeg;base64," + base64.b64encode(encode(Sound(samples, rate), "mp3")).decode()
