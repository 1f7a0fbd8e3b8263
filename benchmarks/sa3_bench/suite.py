"""`sa3-bench table` from its flags to its files: which cases there are, progress over them, and what is written."""

from __future__ import annotations

import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sa3_bench import bundles, cases, machine, peers, quality, report, session, work
from sa3_bench import table as tables
from sa3_bench.cases import Case, Model
from sa3_bench.process import Failed, last_json
from sa3_bench.results import OK, Results, read
from sa3_engines import models, selection
from sa3_engines.errors import InvalidRequest, Sa3Error
from sa3_runtime import lengths
from sa3_runtime.files import write_atomic

GUESSED_GFLOPS, LOAD_SECONDS = 100.0, 5.0  # to weigh the cases against each other before any is measured
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Written:
    text: str
    files: Sequence[Path]


def measure_table(args: Namespace, say: Say) -> Written:
    scorer = quality.scorer(args.clap) if args.clap else None
    session.check_machine(allow_battery=args.allow_battery)
    found = machine.identity()
    name = args.name or machine.name(found)
    plan = _plan(args, name, say)
    args.out.mkdir(parents=True, exist_ok=True)
    made_on = {
        "name": name,
        "machine": found,
        "versions": machine.versions(),
        "code": machine.code(),
        "absent": _absent(),
    }
    kept = Results.begin(args.out / f"{name}.json", resume=args.resume, made_on=made_on)
    if not args.no_limits:
        _measure_limits(args, kept, say)
    with Progress(plan) as progress:
        session.run(plan, kept, progress.begin, progress.end)
    if args.peers:
        _measure_peers(args, plan, kept, say)
    try:
        if scorer is not None:
            _score(plan, kept, scorer)
    finally:
        kept.save()
        written = write(kept, plan.work)
    return written


def write_again(path: Path, folder: Path | None) -> Written:
    data = read(path)
    return write(Results(path, data), folder or _work(data["name"]))


def write(kept: Results, folder: Path) -> Written:
    """The Markdown and HTML beside the JSON."""
    text = tables.markdown(kept.data)
    files = [kept.path, kept.path.with_suffix(".md"), kept.path.with_suffix(".html")]
    write_atomic(files[1], text.encode())
    write_atomic(files[2], report.html(kept.data, folder).encode())
    return Written(text=text, files=files)


# Which cases there are


def _plan(args: Namespace, name: str, say: Say) -> session.Plan:
    backends = args.backends or [one for one in selection.names() if selection.load(one).why_not() is None]
    for backend in backends:
        selection.load(backend)  # refuses what is none
    found: list[Case] = []
    for model in (cases.resolve(one, args.weights) for one in args.models):
        fitting = cases.lengths(model, args.durations)
        if left := [f"{seconds:g}" for seconds in args.durations if seconds not in fitting]:
            say(f"left out {', '.join(left)} s of {model.name}, which makes {model.longest:g} s at most")
        for backend in backends if fitting else ():
            if args.export and (reason := bundles.export(model.source, backend, args.precision, say)) is not None:
                say(reason)
            for precision in args.precision:
                if (reason := bundles.why_not(model.source, backend, precision)) is None:
                    found += _cases(args, model, backend, precision)
                else:
                    say(f"left out {model.name} on {backend} in {precision}: {reason}")
    if not found:
        seconds, precision = ", ".join(f"{one:g}" for one in args.durations), ", ".join(args.precision)
        raise InvalidRequest(
            f"nothing to measure: no engine makes {seconds} s with {', '.join(map(str, args.models))} in {precision}"
        )
    return session.Plan(
        cases=found,
        repeat=args.repeat,
        warmup_steps=args.warmup_steps,
        most_seconds=args.most_seconds,
        timeout=args.timeout,
        allow_battery=args.allow_battery,
        quality=not args.no_quality,
        work=args.work or _work(name),
    )


def _cases(args: Namespace, model: Model, backend: str, precision: str) -> list[Case]:
    return [
        Case(
            model=model.name,
            weights=model.weights,
            source=model.source,
            seconds=seconds,
            batch=batch,
            backend=backend,
            precision=precision,
            device=args.device,
            threads=args.threads,
            steps=args.steps,
            seed=args.seed,
            padding=args.padding,
            chunked=not args.whole_decode,
        )
        for seconds in cases.lengths(model, args.durations)
        for batch in args.batches
    ]


def _absent() -> dict[str, str]:
    """The engines that cannot run here, and why."""
    reasons = {name: selection.load(name).why_not() for name in selection.names()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _work(name: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "sa3-bench" / name


# Progress


class Progress:
    """A bar over the seconds that all cases are thought to take, so that what is left can be told early."""

    def __init__(self, plan: session.Plan) -> None:
        self._weights = {case.key: _guess(case, plan) for case in plan.cases}
        self._bar = tqdm(
            total=sum(self._weights.values()),
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {elapsed} spent, about {remaining} left",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        )

    def begin(self, case: Case) -> None:
        self._bar.set_description(f"{case.model} {case.seconds:g} s x {case.batch}, {case.engine}")

    def end(self, case: Case) -> None:
        self._bar.update(min(self._weights[case.key], self._bar.total - self._bar.n))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _guess(case: Case, plan: session.Plan) -> float:
    """Seconds, by the arithmetic of the sampling steps."""
    config = models.locate(case.opened).config
    frames = lengths.frames(config, [case.seconds], case.padding, config.sample_size)
    sizes = {"items": case.batch, "latents": frames, "context": 32, "local": 1}
    step = work.count(config, "step", sizes).flops / GUESSED_GFLOPS / 1e9
    steps = case.steps * plan.repeat + (plan.warmup_steps or case.steps)
    return LOAD_SECONDS + min(step * steps, step * case.steps * 2 + plan.most_seconds)


# What stands beside the cases


def _measure_limits(args: Namespace, kept: Results, say: Say) -> None:
    """In a process of its own, since it brings every library in."""
    devices = ["cpu", *(["cuda"] if kept.data["machine"]["gpus"] and not args.device.startswith("cpu") else [])]
    for device in devices:
        if device in kept.data["limits"] and args.resume:
            continue
        say(f"measuring what {device} can do at most")
        threads = [] if args.threads is None else ["--threads", str(args.threads)]
        command = [sys.executable, "-m", "sa3_bench", "limits", "--device", device, *threads]
        try:
            kept.data["limits"][device] = last_json(command, args.timeout)
        except Failed as e:
            say(f"the limits of {device} are not known: {e}")


def _measure_peers(args: Namespace, plan: session.Plan, kept: Results, say: Say) -> None:
    """Once for each work that our own engines did one clip at a time."""
    pythons: Mapping[str, str | None] = {"upstream": args.upstream_python, "diffusers": args.diffusers_python}
    wanted = {case.work: case for case in plan.cases if case.batch == 1}
    for peer in peers.PEERS:
        python = pythons[peer.name] or sys.executable
        version, reason = peers.version(peer, python)
        before = kept.data["peers"].get(peer.name, {})
        rows: dict[str, Any] = dict(before.get("rows", {})) if before.get("version") == version else {}
        kept.data["peers"][peer.name] = {"version": version, "reason": reason, "about": peer.about, "rows": rows}
        for key, case in wanted.items() if version is not None else ():
            if args.resume and rows.get(key, {}).get("status") == OK:
                continue
            say(f"{peer.name}: {key}")
            rows[key] = peers.measure(
                peer,
                case,
                python=python,
                repeat=min(plan.repeat, 2),
                warmup_steps=plan.warmup_steps,
                timeout=plan.timeout,
            )
            kept.save()


def _score(plan: session.Plan, kept: Results, scorer: quality.Scorer) -> None:
    """The first clip of every engine with real weights."""
    for case in plan.cases:
        tiers = kept.data["quality"].get(f"{case.model} {case.weights}", {})
        path = session.audio_file(plan.work, case)
        if case.weights != "real" or case.engine not in tiers or "clap" in tiers[case.engine] or not path.is_file():
            continue
        rate = kept.data["cases"][case.key]["result"]["output"]["rate"]
        try:
            value = float(scorer(np.load(path), rate, cases.PROMPT))
        except Exception as e:
            raise Sa3Error(f"the function given with --clap failed: {type(e).__name__}: {e}") from e
        tiers[case.engine]["clap"] = value if math.isfinite(value) else None
