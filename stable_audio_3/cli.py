"""The `stable-audio` command with upstream's flags. It does not do more than those; `sa3` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sa3_runtime.pipeline import Generation, Pipeline
    from sa3_runtime.request import Request

DURATION = 120.0


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from sa3_engines.errors import Sa3Error

    try:
        return _run(args)
    except Sa3Error as e:
        print(f"stable-audio: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("stable-audio: cancelled", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="stable-audio",
        description="Make sound from a text with Stable Audio 3.",
        epilog="The sa3 command does the same and more: other formats, a limiter, sidecars, any backend.",
    )
    add = p.add_argument
    add("--model", default="medium", help="name, folder, owner/repository or random:NAME (default: %(default)s)")
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--no-half", action="store_true", help="fp32 also on CUDA, where fp16 is the default")
    add("--backend", default="auto", help="torch, onnx, or auto: what the model has (default: %(default)s)")
    add("-p", "--prompt", nargs="+", required=True, metavar="TEXT", help="one, or one per item")
    add("--negative-prompt", nargs="+", metavar="TEXT", help="one, or one per item")
    add("--duration", nargs="+", type=float, metavar="S", help="seconds: one, or one per item (default: 120)")
    add("--steps", type=int, default=8, help="(default: %(default)s)")
    add("--cfg-scale", type=float, default=1.0, help="(default: %(default)s)")
    add("--seed", type=int, default=-1, help="-1 chooses one (default: %(default)s)")
    add("--batch-size", type=int, metavar="N", help="(default: as many as there are prompts)")
    add(
        "-o",
        "--output",
        default="output.wav",
        metavar="PATH",
        help="_0, _1... is added to several (default: %(default)s)",
    )
    add("--init-audio", metavar="PATH", help="sound to start from")
    add(
        "--init-noise-level", type=float, default=0.9, metavar="X", help="how little of it stays (default: %(default)s)"
    )
    add("--inpaint-audio", metavar="PATH", help="sound of which parts are made anew")
    add("--inpaint-start", type=float, action="append", metavar="S", help="second a part begins; repeatable")
    add("--inpaint-end", type=float, action="append", metavar="S", help="second it ends; one for every start")
    add(
        "--chunked-decode", action=argparse.BooleanOptionalAction, help="decode in windows (default: as the model says)"
    )
    add("--lora-ckpt-path", action="append", metavar="PATH", help="adapter (safetensors); repeatable")
    add("--lora-strength", type=float, metavar="X", help="of all adapters, or of one (default: 1)")
    add("--lora-index", type=int, metavar="N", help="which one --lora-strength is for, counted from 0")
    return p


def _run(args: argparse.Namespace) -> int:
    from sa3_runtime import audio
    from sa3_runtime.pipeline import Pipeline

    items = _items(args)
    regions = _regions(args)
    _check_adapters(args)
    outputs = _outputs(args.output, items)
    for path in outputs:
        audio.format_for(path)
        audio.check_writable(path)
    # Read before the model is: what cannot be read need not wait for it.
    sounds = _Sounds(*(audio.read(path) if path else None for path in (args.init_audio, args.inpaint_audio)))
    precision = "fp32" if args.no_half else "auto"
    with Pipeline.load(args.model, backend=args.backend, device=args.device or "auto", precision=precision) as pipeline:
        for path in args.lora_ckpt_path or ():
            pipeline.load_adapter(path)
        if args.lora_strength is not None:
            pipeline.adapters.set_strength(args.lora_strength, args.lora_index)
        request = _request(args, items, regions, sounds, pipeline.config.longest_seconds)
        made = _generate(pipeline, request)
    for path, sound in zip(outputs, made.sounds, strict=True):
        audio.write(path, sound)
        # Not to stdout, which may be the output.
        print(f"{path}: {sound.seconds:.1f} s, seed {made.plan.seed}", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class _Sounds:
    init: object
    inpaint: object


def _items(args: argparse.Namespace) -> int:
    from sa3_engines.errors import InvalidRequest

    prompts = len(args.prompt)
    items = prompts if args.batch_size is None else args.batch_size
    if items < 1:
        raise InvalidRequest(f"--batch-size {items}; it must be 1 or more")
    if prompts not in (1, items):
        raise InvalidRequest(f"--batch-size {items} disagrees with {prompts} prompts; leave it out, or give one prompt")
    for flag, values in (("--negative-prompt", args.negative_prompt), ("--duration", args.duration)):
        if values is not None and len(values) not in (1, items):
            raise InvalidRequest(f"{flag} has {len(values)} values for {items} items; give one, or one per item")
    return items


def _regions(args: argparse.Namespace) -> list[tuple[float, float]]:
    from sa3_engines.errors import InvalidRequest

    starts, ends = args.inpaint_start or [], args.inpaint_end or []
    if len(starts) != len(ends):
        raise InvalidRequest(f"{len(starts)} --inpaint-start and {len(ends)} --inpaint-end; they come in pairs")
    if bool(starts) != (args.inpaint_audio is not None):
        raise InvalidRequest("--inpaint-audio and --inpaint-start with --inpaint-end need each other; give all three")
    return list(zip(starts, ends, strict=True))


def _check_adapters(args: argparse.Namespace) -> None:
    from sa3_engines.errors import InvalidRequest

    if not args.lora_ckpt_path and (args.lora_strength is not None or args.lora_index is not None):
        raise InvalidRequest("--lora-strength and --lora-index are for adapters; give --lora-ckpt-path")
    if args.lora_index is not None and args.lora_strength is None:
        raise InvalidRequest("--lora-index says which adapter --lora-strength is for; give both")


def _outputs(output: str, items: int) -> list[Path]:
    path = Path(output)
    return [path] if items == 1 else [path.with_name(f"{path.stem}_{index}{path.suffix}") for index in range(items)]


def _request(
    args: argparse.Namespace, items: int, regions: list[tuple[float, float]], sounds: _Sounds, longest: float
) -> Request:
    from sa3_runtime.coding import Chunking
    from sa3_runtime.request import Request

    return Request(
        prompt=args.prompt,
        negative_prompt=args.negative_prompt,
        # The default gives way to a model that makes less.
        seconds=min(DURATION, longest) if args.duration is None else args.duration,
        batch_size=items,
        seed=args.seed,
        steps=args.steps,
        cfg_scale=args.cfg_scale,
        init_audio=sounds.init,
        init_noise_level=args.init_noise_level,
        inpaint_audio=sounds.inpaint,
        inpaint_regions=regions,
        chunking=None if args.chunked_decode is False else Chunking(),
        truncate_prompt=True,
    )


def _generate(pipeline: Pipeline, request: Request) -> Generation:
    from sa3_runtime.pipeline import Watch
    from sa3_runtime.tokens import tokenizer_for
    from stable_audio_3.notices import cuts, progress_bar

    texts: tuple[Any, ...] = (request.prompt, request.negative_prompt)
    for sentence in cuts(pipeline, lambda: tokenizer_for(pipeline.source), *texts):
        print(f"stable-audio: warning: {sentence}", file=sys.stderr)
    with progress_bar() as progress:
        made = pipeline.generate(request, Watch(progress=progress))
    for sentence in made.warnings:
        print(f"stable-audio: warning: {sentence}", file=sys.stderr)
    return made
