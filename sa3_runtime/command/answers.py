"""What each command of `sa3` does and says; what is heavy is imported after the flags are read."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sa3_engines import console
from sa3_engines.errors import Cancelled, Sa3Error
from sa3_engines.tiers import EXACT
from sa3_runtime.command import arguments, cores

if TYPE_CHECKING:
    from sa3_runtime.command.doctor import Export, Probe, Report
    from sa3_runtime.command.jobs import Listener, Result
    from sa3_runtime.machine import Machine

NAME = "sa3"


def run(argv: Sequence[str] | None) -> int:
    args = arguments.parse(argv)
    with _failing_in_json() if args.json else nullcontext():
        if getattr(args, "cores", None) is not None:
            cores.pin(args.cores)
        return COMMANDS[args.command](args)


@contextmanager
def _failing_in_json() -> Generator[None]:
    """What fails is told on stdout as well, so that whoever reads that finds an object there every time."""
    try:
        yield
    except BrokenPipeError:  # nobody reads it
        raise
    except (KeyboardInterrupt, Exception) as e:
        if console.from_interrupt(e):
            arguments.failed_in_json("interrupted", Cancelled.exit_code)
        elif isinstance(e, Sa3Error):
            arguments.failed_in_json(str(e), e.exit_code)
        else:  # a traceback follows
            arguments.failed_in_json(f"{type(e).__name__}: {e}", Sa3Error.exit_code)
        raise


# generate, encode, decode


def _generate(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import jobs
    job = jobs.prepare(args)
    return _work(args, lambda listener: jobs.generate(job, listener))


def _encode(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import jobs
    return _work(args, lambda listener: jobs.encode(args, listener))


def _decode(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import jobs
    return _work(args, lambda listener: jobs.decode(args, listener))


def _work(args: Namespace, work: Callable[[Listener], Result]) -> int:
    from sa3_runtime.command.jobs import Listener
    from sa3_runtime.command.progress import Bars

    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        bars.close()
        if not args.quiet:
            console.say(NAME, text)

    with ExitStack() as stack:
        if args.quiet:
            _quiet_downloads()
        shown = console.on_terminal() and not args.quiet if args.progress is None else args.progress
        bars = stack.enter_context(Bars(shown=shown))
        result = work(Listener(progress=bars, warn=warn))
    if args.json:
        console.out(json.dumps(_as_json(result) | {"warnings": warnings}))
    elif not args.quiet:
        for line in _lines(result):
            console.out(line)
    return 0


def _quiet_downloads() -> None:
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def _lines(result: Result) -> list[str]:
    support, spent = result.support, result.working
    promise = f" ({support.tier})" if support.tier not in ("", EXACT) else ""
    how = f"{support.backend} on {support.device} in {support.precision}{promise}"
    took = f"{how}, {spent:.1f} s, {result.times_real_time:.1f}x real time"
    files = [
        f"{file}: {seconds:.2f} s" + (f", seed {result.seeds[index]}" if result.seeds else "")
        for index, (file, seconds) in enumerate(zip(result.files, result.durations, strict=True))
    ]
    return [f"{files[0]}; {took}"] if len(files) == 1 else [*files, took]


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "files": [str(path) for path in result.files],
        "sidecars": [str(path) for path in result.sidecars],
        "latents": [str(path) for path in result.latents],
        "durations": result.durations,
        "seed": result.seeds[0] if len(set(result.seeds)) == 1 else result.seeds or None,
        "model": result.model,
        "backend": result.support.backend,
        "device": result.support.device,
        "precision": result.support.precision,
        "tier": result.support.tier,
        "seconds": result.seconds,
        "times_real_time": result.times_real_time,
    }


# models


def _models(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import catalogue
    entries = catalogue.entries()
    if args.json:
        console.out(json.dumps({"models": [asdict(entry) for entry in entries], "licence": catalogue.LICENCE}))
        return 0
    rows = [
        (
            ", ".join((entry.name, *entry.aliases)),
            str(entry.max_seconds or "-"),
            "here" if entry.here else "missing" if entry.repo is None else "gated" if entry.gated else "hub",
            entry.repo or "-",
            entry.about,
        )
        for entry in entries
    ]
    console.out(_table(("name", "max s", "where", "repository", "for"), rows))
    console.out(f"\n{catalogue.LICENCE}")
    return 0


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)


# doctor


def _doctor(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import doctor, jobs
    jobs.is_folder(args.model)  # refuses ~NAME where there is no such home

    def tell(what: str) -> None:
        if console.on_terminal():
            console.say(NAME, f"trying {what}")

    report = doctor.examine(args.model, deep=args.deep, tell=tell)
    if args.json:
        console.out(json.dumps(asdict(report) | {"healthy": report.healthy}))
    else:
        console.out(
            "\n\n".join((_machine(report.machine), _probes(report.probes), _bundles(report.bundles), _verdict(report)))
        )
    return report.auto.exit_code


def _machine(m: Machine) -> str:
    limits = [f"{m.usable_cores} of {m.cores} cores usable"] if m.usable_cores != m.cores else [f"{m.cores} cores"]
    limits += [f"held to {m.core_limit:g} of them by its cgroup"] if m.core_limit is not None else []
    memory = f"{_gb(m.available)} of {_gb(m.memory)} available"
    memory += f", held to {_gb(m.memory_limit)} by its cgroup" if m.memory_limit is not None else ""
    facts = {
        "sa3-runtime": f"{m.version}, Python {m.python}, {m.system}",
        "processor": "; ".join((m.cpu, ", ".join(limits), " ".join(m.flags) or "no flags known")),
        "memory": memory,
        "downloads": m.cache + (" (offline: HF_HUB_OFFLINE is set)" if m.offline else ""),
    }
    lines = [f"{name:12} {text}" for name, text in facts.items()]
    return "\n".join([*lines, *(f"warning: {text}" for text in m.warnings)])


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _probes(probes: Sequence[Probe]) -> str:
    rows = [(p.backend, p.device or "-", _joined(p.versions), p.problem or _ran(p)) for p in probes]
    return _table(("backend", "device", "versions", "result"), rows)


def _bundles(found: Sequence[Export]) -> str:
    """Each tier's worst likeness to the reference, and what it took where it was exported."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        if one.problem is not None:
            rows.append((one.folder, "-", "-", "-", "-", one.problem))
        for tier in one.tiers:
            step = "-" if tier.step_seconds is None else f"{1000 * tier.step_seconds:.0f} ms"
            like = f"{tier.cosine:.6f}, {tier.snr_db:.0f} dB"
            where = tier.problem or f"for {one.seconds}; measured on {one.measured_on}"
            rows.append((one.model, ", ".join(one.backends), f"{tier.name} ({tier.type})", like, step, where))
    return _table(("bundle", "engine", "tier", "likeness", "one step", ""), rows)


def _joined(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items()) or "-"


def _ran(p: Probe) -> str:
    decoded = f"ran: decoded in {1000 * (p.seconds or 0):.0f} ms with {p.model}"
    return decoded if p.generated is None else f"{decoded}, made 1 s of sound in {p.generated:.2f} s"


def _verdict(report: Report) -> str:
    auto = report.auto
    if auto.problem is not None:
        return f"{auto.model} does not work here: {auto.problem}"
    took = f"loaded in {auto.seconds_to_load:.2f} s, made 1 s of sound in {auto.seconds_to_make:.2f} s"
    lines = [f"{auto.model} runs on {auto.backend}, {auto.device}, {auto.precision}: {took}"]
    return "\n".join([*lines, *(f"  not on {reason}" for reason in auto.refused)])


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "generate": _generate,
    "encode": _encode,
    "decode": _decode,
    "models": _models,
    "doctor": _doctor,
}
