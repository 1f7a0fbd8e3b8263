"""python -m sa3_training: trains `nano` from nothing, and measures and exports what it has learned."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sa3_engines.models import HERE
from sa3_training import autoencoding, distilling, flow, quality, recipe, report, running
from sa3_training.recipe import Plan

ROOT = Path(__file__).parents[1]
STAGES = {"autoencoder": recipe.autoencoder, "base": recipe.base, "distil": recipe.distil, "nano": recipe.distil}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="sa3_training", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    said = {
        "nano": "every stage that is not finished, then the export",
        "autoencoder": "the first stage",
        "base": "up to the second: the flow and the text encoder",
        "distil": "up to the third: few steps",
        "export": "the checkpoint and bundle of what is there",
        "report": "curves, sounds and measurements as one HTML page",
    }
    for name, line in said.items():
        command = commands.add_parser(name, help=line, description=line)
        _add_options(command)
        if name in ("nano", "export"):
            command.add_argument("--out", type=Path, default=HERE / "nano", help="of the bundle (default: the package)")
        if name == "export":
            choices = (flow.Flow.name, distilling.Distillation.name)
            command.add_argument("--stage", choices=choices, default=choices[-1], help="default: %(default)s")
            command.add_argument("--no-graphs", action="store_true", help="the checkpoint alone")
        if name == "report":
            command.add_argument("--model", default="nano", help="whose sounds (default: %(default)s)")
            command.add_argument("--html", type=Path, default=Path("nano.html"), help="default: %(default)s")
            command.add_argument("--quality", type=Path, metavar="JSON", help="what `quality --json` wrote")
    quality.add_arguments(commands.add_parser("quality", help="whether a model makes what it is asked for"))
    return made


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runs", type=Path, default=ROOT / "runs", help="the folder of all runs (default: %(default)s)"
    )
    command.add_argument("--name", default="nano", help="of the run, a folder in it (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    command.add_argument("--threads", type=int, default=1, help="of the trainer (default: %(default)s)")
    command.add_argument("--workers", type=int, default=Plan.workers, help="that make data (default: %(default)s)")
    command.add_argument("--clip-shards", type=int, default=Plan.clip_shards, help="default: %(default)s")
    command.add_argument("--latent-shards", type=int, default=Plan.latent_shards, help="default: %(default)s")
    options = autoencoding.Options, flow.Options, distilling.Options
    for name, kind in zip(("autoencoder", "base", "distil"), options, strict=True):
        command.add_argument(f"--{name}-steps", type=int, default=kind.steps, help="default: %(default)s")


def plan(args: argparse.Namespace) -> Plan:
    device = str(args.device)
    return Plan(
        folder=args.runs / args.name,
        clip_shards=args.clip_shards,
        latent_shards=args.latent_shards,
        workers=args.workers,
        autoencoder=autoencoding.Options(steps=args.autoencoder_steps, device=device),
        base=flow.Options(steps=args.base_steps, device=device),
        distil=distilling.Options(steps=args.distil_steps, device=device),
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.command == "quality":
        return quality.run(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # near silence, denormals cost more than all the rest
    made = plan(args)
    try:
        if args.command in STAGES:
            STAGES[args.command](made)
    except running.Interrupted as e:
        logging.getLogger(__name__).warning("%s; the same command goes on", e)
        return 130
    if args.command == "nano":
        recipe.export(made, args.out)
    elif args.command == "export":
        recipe.export(made, args.out, stage=args.stage, graphs=not args.no_graphs)
    elif args.command == "report":
        report.write(made, args.model, args.html, args.quality)
    return 0


if __name__ == "__main__":
    sys.exit(main())
