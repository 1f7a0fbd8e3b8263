"""`sa3-export`: makes a bundle for an engine out of a model, and compares it with the reference before it is used."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa3_engines import bundle, models
from sa3_engines.errors import BackendUnavailable, Cancelled, Sa3Error

if TYPE_CHECKING:
    from sa3_exporters.build import Built

TARGETS = ("onnx",)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="sa3-export",
        description="Convert a Stable Audio 3 model into a bundle that an engine runs without PyTorch. Every graph is "
        "compared with the PyTorch reference; nothing is published that differs.",
    )
    p.add_argument(
        "--model", required=True, metavar="M", help="a name, a folder, owner/repository, or random:NAME[:SEED]"
    )
    p.add_argument("--revision", help="of a repository on the hub")
    p.add_argument("--target", required=True, choices=TARGETS, help="the kind of engine to convert for")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle's folder; the model's own folder adds graphs to it "
        "(default: one under ~/.cache/sa3-runtime/bundles)"
    )  # fmt: skip
    p.add_argument("--force", action="store_true", help="export again even when the bundle is current")
    p.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("sa3-export: interrupted; nothing was published", file=sys.stderr)
        return Cancelled.exit_code
    except Sa3Error as e:
        print(f"sa3-export: {e}", file=sys.stderr)
        return e.exit_code


def _run(args: argparse.Namespace) -> int:
    missing = [name for name in ("torch", "onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise BackendUnavailable(f"exporting needs {', '.join(missing)}; pip install 'sa3-runtime[export]'")
    source = models.locate(args.model, revision=args.revision)
    from sa3_exporters import build  # imports torch

    out = args.out or bundle.default_folder(args.model, args.target, "fp32")
    recipe = build.Recipe(source=source, out=out.expanduser().absolute(), target=args.target)
    build.check_target(recipe)
    current = not args.force and build.is_current(recipe)
    if args.dry_run:
        print("\n".join(build.describe(recipe)))
    if current:
        print(f"{recipe.out} is already current; --force exports it again")
    if args.dry_run or current:
        return 0
    started = time.perf_counter()

    def report(stage: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {stage}", file=sys.stderr, flush=True)

    built = build.build(recipe, report)
    print(_table(built))
    print(f"{recipe.out}  {built.bundle.id}")
    return 0


def _table(built: Built) -> str:
    rows = [f"{'graph':<8} {'size':>12} {'parity':>9} {'error':>9} {'time':>8}"]
    for name, graph in built.bundle.graphs.items():
        size, seconds = built.bundle.files[graph.file].size, built.seconds[name]
        rows.append(f"{name:<8} {size:>12,} {graph.parity_db:>6.1f} dB {graph.relative_error:>9.1e} {seconds:>6.1f} s")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
