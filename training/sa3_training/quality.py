"""The command that measures a model, prints a table, and sets it beside one that has learned nothing."""

# ruff: noqa: T201
# It prints: the table is what the command is for.

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sa3_engines.errors import Sa3Error
from sa3_runtime import Pipeline
from sa3_training.judging import Maker, Report, Tally, measure, tallies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="nano", help="a name or a folder (default: %(default)s)")
    parser.add_argument(
        "--against", default="random:nano", metavar="MODEL", help="what to compare with, or none (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there")
    parser.add_argument("--limit", type=int, metavar="N", help="about this many prompts, spread over the list")
    parser.add_argument("--steps", type=int, metavar="N", help="per sound (default: the model's own)")
    parser.add_argument("--cfg-scale", type=float, metavar="X", help="guidance (default: the model's own)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the engine")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep every clip there, with its prompt as a name")


def table(reports: Sequence[Report]) -> list[str]:
    """A row a property: passes of each model, and what they would be had every clip answered another prompt."""
    columns: list[tuple[str, Mapping[str, Tally]]] = []
    for report in reports:
        columns.append((report.model, tallies([*report.outcomes, *report.pairs])))
        columns.append(("exchanged", tallies(report.exchanged)))
    names = list(dict.fromkeys(name for _, column in columns for name in column))
    width = max(map(len, names), default=0)
    lines = [" " * width + "".join(f"  {title[-18:]:>18}" for title, _ in columns)]
    for name in names:
        cells = [_cell(column.get(name)) for _, column in columns]
        lines.append(f"{name:{width}}" + "".join(f"  {cell:>18}" for cell in cells))
    for part in dict.fromkeys(key for report in reports for key in report.fidelity):
        lines.append("")
        for name in reports[0].fidelity.get(part, {}):
            cells = [f"{report.fidelity[part][name]:.2f}" for report in reports if part in report.fidelity]
            lines.append(f"{part}: {name}  " + "  ".join(cells))
    return lines


def _cell(tally: Tally | None) -> str:
    return "" if tally is None else f"{tally.passed}/{tally.of} {tally.rate:.0%}"


def run(args: argparse.Namespace) -> int:
    """Prints a table; 0 whatever the model is worth."""
    reports = [_measured(args.model, args)]
    if args.against not in ("", "none"):
        try:
            reports.append(_measured(args.against, args))
        except Sa3Error as e:
            print(f"not compared with {args.against}: {e}")
    print("\n".join(table(reports)))
    if args.json is not None:
        # Comparisons and means may be numpy's own kinds of number.
        text = json.dumps([r.summary() for r in reports], indent=1, default=lambda value: value.item())
        args.json.write_text(text + "\n", "utf-8")
    return 0


def _measured(model: str, args: argparse.Namespace) -> Report:
    with Pipeline.load(model, threads=args.threads) as pipeline:
        return measure(Maker(pipeline, args.steps, args.cfg_scale, args.save), model, args.limit)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quality", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
