"""The `stable-audio` command: upstream's flags and defaults, translated into those of `sa3 generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sa3_engines import console

if TYPE_CHECKING:
    from argparse import Namespace

    from sa3_engines.flags import Parser

DURATION = 120.0
NAME = "stable-audio"


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(NAME, lambda: _run(parser().parse_args(argv)))


def parser() -> Parser:
    with console.leaving_at_once(NAME):  # and not before Ctrl-C is answered
        import argparse
        from pathlib import Path

        from sa3_engines.flags import Parser
    one = Parser(
        prog=NAME,
        description="Make sound from a text with Stable Audio 3.",
        epilog="`sa3 generate` does the same and more: a limiter, sidecars, further formats and settings.",
    )
    add = one.add_argument
    add("--model", default="medium", help="name, folder, OWNER/REPOSITORY or random:NAME (default: %(default)s)")
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--no-half", action="store_true", help="fp32 also on CUDA, where fp16 is the default")
    add("--backend", default="auto", metavar="NAME", help="auto, or one `sa3 doctor` lists (default: %(default)s)")
    add("-p", "--prompt", nargs="+", action="extend", required=True, metavar="TEXT", help="one, or one per item")
    add("--negative-prompt", nargs="+", metavar="TEXT", help="one, or one per item")
    add("--duration", nargs="+", type=float, metavar="S", help="seconds, one or one per item (default: 120)")
    add("--steps", type=int, default=8, metavar="N", help="(default: %(default)s)")
    add("--cfg-scale", type=float, default=1.0, metavar="X", help="guidance; 1 is none (default: %(default)s)")
    add("--seed", type=int, default=-1, metavar="N", help="-1 has one chosen (default: %(default)s)")
    add("--batch-size", type=int, metavar="N", help="(default: as many as there are prompts)")
    add("-o", "--output", type=Path, default=Path("output.wav"), metavar="PATH",
        help="a batch gets _0, _1... before the suffix (default: %(default)s)")  # fmt: skip
    add("--init-audio", type=Path, metavar="PATH", help="sound to vary")
    add("--init-noise-level", type=float, default=0.9, metavar="X", help="how far to leave it (default: %(default)s)")
    add("--inpaint-audio", type=Path, metavar="PATH", help="sound to make anew in places")
    add("--inpaint-start", type=float, action="append", metavar="S", help="where a place begins; repeat for more")
    add("--inpaint-end", type=float, action="append", metavar="S", help="where it ends; one for every start")
    add("--chunked-decode", action=argparse.BooleanOptionalAction, help="in windows (default: as the model says)")
    add("--lora-ckpt-path", type=Path, action="append", metavar="PATH", help="adapter, .safetensors; repeat for more")
    add("--lora-strength", type=float, metavar="X", help="of all adapters, or of one (default: 1.0)")
    add("--lora-index", type=int, metavar="N", help="the one adapter, from 0, that the strength is for")
    return one


def _run(args: Namespace) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import jobs
        from sa3_runtime.command.progress import Bars
    job = jobs.prepare(_translated(args))
    with Bars(shown=console.on_terminal()) as bars:

        def warn(text: str) -> None:
            bars.close()
            console.say(NAME, f"warning: {text}")

        result = jobs.generate(job, jobs.Listener(progress=bars, warn=warn))
    for path, seconds, seed in zip(result.files, result.durations, result.seeds, strict=True):
        console.out(f"{path}: {seconds:.2f} s, seed {seed}")
    return 0


def _translated(args: Namespace) -> Namespace:
    """The same as flags of `sa3 generate`; where the two have other defaults, upstream's are spelled out."""
    from argparse import Namespace

    from sa3_runtime.command import arguments, jobs

    items = _items(args)
    if args.duration is None:
        config = jobs.known_config(args.model)
        args.duration = [config.usual_seconds(DURATION) if config else DURATION]
    as_sa3 = {
        "batch_size": items,
        "seconds": args.duration,
        "seed": [args.seed],
        "precision": "fp32" if args.no_half else None,
        "lora_strength": None if args.lora_strength is None else [args.lora_strength],
        "init_noise_level": args.init_noise_level if args.init_audio else None,
        "truncate_prompt": True,
        "limiter": "off",
    }
    return Namespace(**vars(arguments.parse(["generate"])) | vars(args) | as_sa3)


def _items(args: Namespace) -> int:
    from sa3_engines.errors import InvalidRequest

    prompts = len(args.prompt)
    items = prompts if args.batch_size is None else args.batch_size
    if prompts not in (1, items):
        raise InvalidRequest(f"--batch-size {items} and {prompts} prompts disagree; leave it out, or give one prompt")
    for flag, values in (("--negative-prompt", args.negative_prompt), ("--duration", args.duration)):
        if values is not None and len(values) not in (1, items):
            raise InvalidRequest(f"{flag} has {len(values)} values for {items} items; give one, or one per item")
    return items
