"""The command `sa3-bench`. Only this file prints; what is heavy is imported after the flags are read, and nothing where
Ctrl-C is not answered yet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sa3_engines import console
from sa3_engines.errors import OutputError

if TYPE_CHECKING:
    from argparse import Namespace

NAME = "sa3-bench"
BEGUN = time.perf_counter()  # of this process, near enough: the load is timed from here


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    resumes = "; --resume goes on from here" if "table" in words[:1] else ""
    return console.run(NAME, lambda: _run(words), interrupted=f"interrupted{resumes}")


def _run(words: Sequence[str]) -> int:
    with console.leaving_at_once(NAME):
        from sa3_bench import arguments
    args = arguments.parse(words)
    try:
        return COMMANDS[args.command](args)
    except BrokenPipeError:
        raise
    except OSError as e:
        what = f"cannot write {str(e.filename)!r}: {e.strerror}" if e.filename and e.strerror else str(e)
        raise OutputError(what) from e


def _say(text: str) -> None:
    console.say(NAME, text)


def _table(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_bench import suite
    written = suite.measure_table(args, _say)
    console.out(written.text)
    for path in written.files:
        _say(f"wrote {path}")
    return 0


def _once(args: Namespace) -> int:
    import json

    with console.leaving_at_once(NAME):
        from sa3_bench import cases, measure
        from sa3_engines import models

    case = cases.Case(
        model=args.model,
        source=args.source,
        weights=args.weights_are or cases.kind_of_weights(models.locate(args.source or args.model)),
        seconds=args.seconds,
        batch=args.batch,
        backend=args.backend,
        precision=args.precision,
        device=args.device,
        threads=args.threads,
        steps=args.steps,
        seed=args.seed,
        padding=args.padding,
        chunked=not args.whole_decode,
    )
    wanted = measure.Wanted(
        repeat=args.repeat,
        warmup_steps=args.warmup_steps,
        most_seconds=args.most_seconds,
        encode=args.encode,
        reload=args.reload,
        audio=args.save_audio,
        parity=args.save_parity,
        tell=_say if console.on_terminal() else lambda _: None,
    )
    console.out(json.dumps(measure.measure(case, wanted, BEGUN)))
    return 0


def _limits(args: Namespace) -> int:
    import json

    from sa3_bench import limits
    from sa3_engines.engine import Options

    Options(threads=args.threads)  # refuses more than a machine can be asked for
    console.out(json.dumps(limits.measure(args.threads, args.device)))
    return 0


def _compare(args: Namespace) -> int:
    import json
    from dataclasses import asdict

    from sa3_bench import compare

    lines = compare.compare(args.first, args.second, margin=args.margin, stage=args.stage)
    regressed = compare.regressed(lines)
    if args.json:
        console.out(json.dumps({"regressed": regressed, "cases": [asdict(line) for line in lines]}))
    else:
        console.out("\n".join(f"{line.verdict}: {line.name}\n    {line.detail}" for line in lines))
    return compare.EXIT_REGRESSION if regressed else 0


def _interleave(args: Namespace) -> int:
    from sa3_bench import interleave

    files = interleave.interleave((args.first, args.second), args.repeat, args.out, args.timeout, _say)
    console.out(f"sa3-bench compare {files[0]} {files[1]}")
    return 0


def _tiers(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_bench import machine, tiers
        from sa3_engines import selection
    for backend in args.backends:
        selection.load(backend)  # refuses what is none
    args.out.mkdir(parents=True, exist_ok=True)  # and not after all is measured
    asked = tiers.Asked(
        model=args.model,
        durations=args.durations,
        backends=args.backends,
        only=args.tiers or (),
        rounds=args.rounds,
        steps=args.steps,
        threads=args.threads,
        memory=not args.no_memory,
    )
    name = f"tiers-{args.name or machine.name(machine.identity())}"
    found = tiers.measure(asked, _say, lambda so_far: tiers.write(so_far, args.out, name))
    for path in tiers.write(found, args.out, name):
        _say(f"wrote {path}")
    console.out(tiers.text(found))
    return 0


def _profile(args: Namespace) -> int:
    import json

    from sa3_bench import cases, profile

    case = cases.Case(
        model=args.model,
        source=args.model,
        seconds=args.seconds,
        backend=args.backend,
        precision=args.precision,
        device=args.device,
        threads=args.threads,
    )
    found = profile.measure(case, args.graph)
    console.out(json.dumps(found) if args.json else profile.text(found))
    return 0


def _history(args: Namespace) -> int:
    from sa3_bench import history
    from sa3_runtime.files import write_atomic

    found = history.versions(args.results)
    write_atomic(args.out, history.html(found).encode())
    console.out(history.text(found))
    _say(f"wrote {args.out}")
    return 0


def _report(args: Namespace) -> int:
    from sa3_bench import suite

    for path in suite.write_again(args.result, args.work).files:
        _say(f"wrote {path}")
    return 0


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "table": _table,
    "once": _once,
    "limits": _limits,
    "compare": _compare,
    "interleave": _interleave,
    "tiers": _tiers,
    "profile": _profile,
    "history": _history,
    "report": _report,
}
