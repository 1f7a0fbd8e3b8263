"""What `sa3-export` does and says: it makes a bundle for an engine out of a model, and compares it with the reference
before it is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa3_engines import console, models
from sa3_engines.bundle import Profile
from sa3_engines.engine import GRAPHS
from sa3_engines.errors import BackendUnavailable, Cancelled, InvalidRequest
from sa3_engines.flags import Parser
from sa3_engines.tiers import TIERS, TYPES
from sa3_exporters import INTERRUPTED, NAME, asked, islands, push, weights
from sa3_exporters.watch import Watch

if TYPE_CHECKING:
    from sa3_exporters.build import Built, Recipe


def parser() -> Parser:
    p = Parser(
        prog=NAME,
        description="Convert a Stable Audio 3 model into a bundle that an engine runs without PyTorch. Every graph of "
        "every tier of precision is compared with the PyTorch reference; nothing is published that differs by more "
        "than its tier promises.",
    )
    p.add_argument(
        "--model", required=True, metavar="M", help="a name, a folder, owner/repository, or random:NAME[:SEED]"
    )
    p.add_argument("--revision", help="of a repository on the hub")
    p.add_argument("--target", required=True, choices=models.TARGETS, help="the kind of engine to convert for")
    p.add_argument(
        "--precision", default="auto", metavar="P,...", help="tiers: "
        f"{', '.join(TIERS)}; or number types: {', '.join(TYPES)} (default: auto, which is exact, high and fast as far "
        "as this machine can make and check them, and fast only where it is the fastest)"
    )  # fmt: skip
    profile = p.add_argument_group("durations", "what the bundle is compared for, and will be asked for")
    profile.add_argument("--min-seconds", type=float, metavar="S", help="the shortest (default: 0)")
    profile.add_argument("--opt-seconds", type=float, metavar="S", help="the usual one, whose speed is measured "
                         "(default: 30, or the longest where that is shorter)")  # fmt: skip
    profile.add_argument("--max-seconds", type=float, metavar="S", help="the longest (default: what the model is for)")
    p.add_argument("--graphs", metavar="G,...", help=f"only some of {', '.join(GRAPHS)} (default: all the model has)")
    p.add_argument(
        "--islands", type=Path, metavar="FILE", help="which layers stay fp32 in the lower tiers, as "
        "`python -m sa3_exporters.sensitivity` derives it from your weights (default: the built-in table)"
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle's folder; the model's own folder adds graphs to it "
        "(default: one under ~/.cache/sa3-runtime/bundles, where the model's name finds it). Large weights in it are "
        "the model's own files where the disk allows (hard links), and not copies"
    )  # fmt: skip
    p.add_argument("--push", metavar="OWNER/NAME", help="then upload the bundle to this repository on the hub")
    p.add_argument("--private", action="store_true", help="with --push: the repository is made private if it is new")
    p.add_argument("--force", action="store_true", help="export again from nothing, even when the bundle is current")
    p.add_argument(
        "--dry-run", action="store_true", help="say what would be built, how large and for where; do nothing"
    )
    return p


def run(argv: Sequence[str] | None) -> int:
    return _run(parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    if args.private and not args.push:
        raise InvalidRequest("--private says how --push makes a repository; name one with --push OWNER/NAME")
    missing = [name for name in ("torch", "onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise BackendUnavailable(f"exporting needs {', '.join(missing)}; pip install 'sa3-runtime[export]'")
    if args.push:
        push.check(args.push)
    out = asked.bundle_folder(args.model, args.target, args.out)
    precision, graphs = _words(args.precision), _words(args.graphs or "")
    if args.graphs is not None and not graphs:
        raise InvalidRequest(f"no graph is asked for; choose from {', '.join(GRAPHS)}")
    asked.check_words(precision, graphs)
    asked.check_seconds(args.min_seconds, args.opt_seconds, args.max_seconds)
    if args.islands is not None:
        islands.check(args.islands)
    asked.check_made(args.target, precision)
    source = models.locate(args.model, revision=args.revision, bundles=False)
    profile = _profile(args, source.config.longest_seconds)
    asked.check_model(source, graphs)
    if profile is not None:
        asked.check_profile(profile, source.name, source.config)
    asked.check_out(out, source)
    weights.check_types(source)
    weights.check_tokenizer(source)
    with console.leaving_at_once(NAME, interrupted=INTERRUPTED):
        from sa3_exporters import build  # imports torch

    recipe = build.Recipe(
        source=source,
        out=out,
        target=args.target,
        precision=precision,
        graphs=graphs,
        profile=profile,
        islands=args.islands,
    )
    with Drawn() as watch, console.ending_in_order():
        try:
            return _export(args, recipe, watch)
        except KeyboardInterrupt:
            if not watch.is_published:
                raise
            watch.close()
            console.say(NAME, f"interrupted; {recipe.out} is published and complete")
            return Cancelled.exit_code


def _export(args: argparse.Namespace, recipe: Recipe, watch: Drawn) -> int:
    from sa3_exporters import build, forecast, placing

    current = f"{recipe.out} is already current; --force exports it again"
    build.check_target(recipe)
    if args.dry_run:
        target, wanted = build.plan(recipe, watch)
        console.out("\n".join(forecast.describe(recipe, target, wanted)))
        if build.is_current(recipe) and not args.force:
            console.out(current)
        elif not args.force:
            build.check_kept(recipe, wanted)
        return 0
    built = build.build(recipe, watch, force=args.force)
    watch.close()
    console.out(current if built is None else f"{table(built)}\n{recipe.out}  {built.bundle.id}")
    if built is not None and not recipe.in_place and (names := placing.shared(recipe.source, recipe.out)):
        console.out(
            f"{', '.join(names)}: shared with {recipe.source.folder}, not copied; what is written into one is in both"
        )
    if args.push:
        console.out(f"uploaded to {push.push(recipe.out, args.push, private=args.private, tell=watch.note)}")
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _profile(args: argparse.Namespace, longest: float) -> Profile | None:
    given = (args.min_seconds, args.opt_seconds, args.max_seconds)
    if given == (None, None, None):
        return None
    low = args.min_seconds or 0.0
    high = longest if args.max_seconds is None else args.max_seconds
    usual = min(max(30.0, low), high) if args.opt_seconds is None else args.opt_seconds
    return Profile(min_seconds=low, opt_seconds=usual, max_seconds=high)


class Drawn(Watch):
    """A bar on a terminal, lines in a log."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._bar = None
        self.is_published = False

    def __enter__(self) -> Drawn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, what: str, done: float) -> None:
        if not console.on_terminal():
            self._line(what)
            return
        from tqdm import tqdm

        if self._bar is None:
            shape = "{percentage:3.0f} % {bar:30} {elapsed}  {desc}"
            self._bar = tqdm(total=1.0, file=sys.stderr, bar_format=shape, leave=False)
        self._bar.n = done
        self._bar.set_description_str(what)

    def note(self, what: str) -> None:
        if self._bar is None:
            self._line(what)
        else:
            self._bar.write(what, file=sys.stderr)

    def published(self) -> None:
        self.is_published = True

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, what: str) -> None:
        console.note(f"{time.perf_counter() - self._started:7.1f} s  {what}")


def table(built: Built) -> str:
    rows = [
        f"{'tier':<8} {'type':<5} {'graph':<8} {'size':>14} {'cosine':>11} {'SNR':>9} {'error':>8}"
        f" {'one run':>9} {'time':>8}"
    ]
    for name, tier in built.bundle.tiers.items():
        for graph, found in tier.graphs.items():
            size = sum(built.bundle.files[file].size for file in found.files)
            row = f"{name:<8} {tier.type:<5} {graph:<8} {size:>14,} {found.cosine:>11.7f} {found.snr_db:>6.1f} dB"
            row += f" {found.relative_error:>8.1e} {1000 * tier.seconds[graph]:>6.0f} ms"
            rows.append(f"{row} {built.seconds[name, graph]:>6.1f} s")
    return "\n".join(rows)
