"""Which layers of a model must stay fp32 in a tier, measured on its own weights:

    python -m sa3_exporters.sensitivity --model M --target T --tier fast --out islands.json

`layers` says how. `sa3-export --islands FILE` takes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa3_engines import console, files, models
from sa3_engines.engine import Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest, OutputError, ParityError
from sa3_engines.flags import Parser
from sa3_engines.models import TARGETS
from sa3_engines.tiers import COMPACT, FAST, FLOORS, HIGH
from sa3_exporters import asked, weights

if TYPE_CHECKING:
    from sa3_exporters.layers import Result, Watch

NAME, INTERRUPTED = "sensitivity", "interrupted; nothing was written"


def parser() -> Parser:
    p = Parser(
        prog="python -m sa3_exporters.sensitivity",
        description="Which layers of a model must stay fp32 in a tier, measured on its own weights with the cases of "
        "the gate of exports. Judged are weights, and what layers take and give; what half precision (high) does "
        "between layers is judged by sa3-export alone.",
    )
    p.add_argument("--model", required=True, metavar="M", help="a name, a folder, or random:NAME[:SEED]")
    p.add_argument("--target", default="onnx", choices=TARGETS, help="whose tiers (default: onnx)")
    p.add_argument("--tier", default=FAST, choices=(HIGH, FAST, COMPACT), help="(default: fast)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, for sa3-export --islands")
    p.add_argument("--threads", type=int, metavar="N")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(NAME, lambda: _main(parser().parse_args(argv)), interrupted=INTERRUPTED)


def _main(args: argparse.Namespace) -> int:
    out: Path = args.out
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"{out} cannot be written: there is no folder {out.absolute().parent}")
    asked.check_made(args.target, [args.tier])
    source = models.locate(args.model, bundles=False)
    weights.check_types(source)
    with console.leaving_at_once(NAME, interrupted=INTERRUPTED):
        from sa3_exporters import layers, targets  # imports torch
        from sa3_exporters.build import Recipe
        from sa3_exporters.forms import FORMS
        from stable_audio_3.engine import BACKEND as TORCH

    tier = targets.load(args.target).tiers()[args.tier]
    if isinstance(tier, str):
        raise BackendUnavailable(f"target {args.target} cannot make precision {args.tier} here: {tier}")
    engine = TORCH.open(source, Options(device="cpu", precision="fp32", threads=args.threads))
    results: dict[str, Result] = {}
    for part in layers.parts(engine, Recipe(source=source, out=out, target=args.target)):
        results[part.graph] = layers.measure(part, FORMS[args.target], tier, _bar(part.graph))
        console.out(_line(part.graph, results[part.graph]))
        if not results[part.graph].keeps:
            raise ParityError(
                f"{tier.name} keeps no {FLOORS[tier.name]:g} with a margin in {part.graph} with half of the work in "
                f"fp32; leave the tier out. Nothing was written"
            )
        tier = layers.with_islands(tier, results[part.graph])
    _write(out, layers.table(source, args.target, tier, results))
    return 0


def _bar(graph: str) -> Watch:
    from tqdm import tqdm

    return lambda layers: tqdm(layers, desc=graph, unit="layer", leave=False, disable=None)


def _write(out: Path, found: Mapping[str, Any]) -> None:
    try:
        with files.replacing(out) as file:
            file.write(f"{json.dumps(found, indent=1)}\n".encode())
    except OSError as e:
        raise OutputError(f"{out} cannot be written: {e.strerror}") from e


def _line(graph: str, result: Result) -> str:
    found = [layer for layer in result.layers if layer.exact]
    text = f"{graph:<7} {result.before.snr_db:5.1f} dB, agreement {result.before.agreement:.5f}"
    if found:
        share = sum(layer.work for layer in found)
        text += f"; with {len(found)} layers in fp32 ({share:.1%} of the work) {result.after.agreement:.5f}"
    return text


if __name__ == "__main__":
    sys.exit(main())
