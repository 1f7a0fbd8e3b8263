"""The flags of `sa3`. Imports nothing heavy, so that --help answers at once.

A flag that is not given leaves None: what it then means depends on the model or on the record a clip is made from.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sa3_engines import console
from sa3_engines.errors import InvalidRequest, OutputError
from sa3_engines.flags import REQUIRED, Parser, Version

EXIT_CODES = """\
exit codes:
  0    done
  1    it failed here, with the reason given: out of memory and the like
  2    the request cannot be done: a flag, a prompt, an audio file
  3    the model is not there, not accessible, or does not fit together
  4    no backend, device or precision that can run it here
  5    a stage produced NaN, silence or a constant
  6    the result could not be written
  130  interrupted
  141  whatever read the output went away
"""
FORMATS = "wav, flac, mp3, ogg, opus"
IN_JSON = 'one JSON object on stdout, and nothing else there; if it fails, {"error": SENTENCE, "exit_code": N}'

Commands = Any  # argparse's own type of it is private


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def failed_in_json(sentence: str, exit_code: int) -> None:
    """Besides what is said on stderr; where nobody can be told this way, that is all."""
    with contextlib.suppress(OutputError):
        console.out(json.dumps({"error": sentence, "exit_code": exit_code}))


class _Parser(Parser):
    """Its errors are told in JSON too, where that is among the flags."""

    in_json = False

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]: as in what it overrides
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        self.in_json = "--json" in (sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if self.in_json:
            failed_in_json(message.replace(REQUIRED, "missing: "), InvalidRequest.exit_code)
        super().error(message)


def parser() -> Parser:
    top = _Parser(
        prog="sa3",
        description="Stable Audio 3: from a prompt to sound, on this machine.",
        epilog=f"Each command has its own --help.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=Version)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _generate(commands)
    _encode(commands)
    _decode(commands)
    _models(commands)
    _doctor(commands)
    return top


def _command(commands: Commands, name: str, about: str, more: str = "") -> Parser:
    return commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.{more}",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _generate(commands: Commands) -> None:
    one = _command(commands, "generate", "make sound from a prompt")
    what = one.add_argument_group("what to make")
    what.add_argument(
        "-p", "--prompt", nargs="+", action="extend", metavar="TEXT", help="what to hear; several make a batch"
    )
    what.add_argument(
        "--negative-prompt", nargs="+", metavar="TEXT", help="what not to hear; works with a --cfg-scale other than 1"
    )
    what.add_argument(
        "--duration",
        nargs="+",
        type=float,
        dest="seconds",
        metavar="S",
        help="seconds, one for all or one per item (as long as --init-audio or --inpaint-audio; else 30, or as much as "
        "the model makes well if that is less)",
    )
    what.add_argument("--batch-size", type=int, metavar="N", help="how many (as many as there are prompts)")
    what.add_argument(
        "--seed",
        nargs="+",
        type=int,
        metavar="N",
        help="one for the batch, or one per item; -1 has one chosen, printed and recorded (-1)",
    )
    what.add_argument(
        "--from",
        dest="record",
        type=Path,
        metavar="FILE",
        help="make a clip again from its .json sidecar, or from the sound file itself; other flags override",
    )
    _model(one, adapters=True)
    _sampling(one)
    _given_audio(one)
    decoding = one.add_argument_group("decoding")
    decoding.add_argument("--chunked-decode", **_switch("encode and decode in windows, to bound memory (on)"))
    decoding.add_argument("--autoencoder-noise", **_switch("add the autoencoder's noise, as the reference does (off)"))
    decoding.add_argument("--keep-tail", **_switch("keep what was made after the duration (off)"))
    sound = _sound(one, limiter="-1.0")
    sound.add_argument(
        "--save-latents", type=Path, metavar="PATH.npy", help="also write what was decoded, padding included"
    )
    sound.add_argument(
        "--sidecar",
        **_switch("also write a .json beside the sound, in no other sound's place; its tags hold the same (off)"),
    )
    _talk(one)


def _sampling(one: Parser) -> None:
    group = one.add_argument_group("sampling")
    group.add_argument("--steps", type=int, metavar="N", help="more is slower (8; 50 for models not post-trained)")
    group.add_argument(
        "--cfg-scale", type=float, metavar="X", help="guidance, 1 is none (1.0; 7.0 for models not post-trained)"
    )
    group.add_argument("--sampler", metavar="NAME", help="pingpong, euler, rk4 or dpmpp (the model's own)")
    group.add_argument(
        "--dist-shift",
        type=_shift,
        metavar="NAME",
        help='where the steps lie: none, logsnr, flux, full, or JSON such as {"type": "flux"} (the model\'s own)',
    )
    group.add_argument("--apg-scale", type=float, metavar="X", help="how much of guidance is made orthogonal (1.0)")
    group.add_argument(
        "--cfg-interval", nargs=2, type=float, metavar=("LO", "HI"), help="noise levels guidance works at (0 1)"
    )
    group.add_argument("--cfg-rescale", type=float, metavar="X", help="rescale what guidance blew up (0.0)")
    group.add_argument("--padding-seconds", type=float, metavar="S", help="made after the end, then cut off (6.0)")
    group.add_argument("--truncate-prompt", **_switch("cut a prompt that is too long instead of refusing it (off)"))


def _given_audio(one: Parser) -> None:
    group = one.add_argument_group("starting from sound")
    group.add_argument("--init-audio", type=Path, metavar="PATH", help="sound to vary")
    group.add_argument("--init-noise-level", type=float, metavar="X", help="how far to leave it, 0 to 1 (0.9)")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--inpaint-audio", type=Path, metavar="PATH", help="sound to make anew in places")
    either.add_argument("--continue", type=Path, dest="continued", metavar="PATH", help="sound to go on from its end")
    group.add_argument(
        "--inpaint-start", type=float, action="append", metavar="S", help="where a place begins; repeat for more"
    )
    group.add_argument(
        "--inpaint-end", type=float, action="append", metavar="S", help="where it ends; as many as there are starts"
    )
    _resampler(group)


def _encode(commands: Commands) -> None:
    one = _command(commands, "encode", "turn a sound file into latents", " A .npy of float32 (channels, frames).")
    one.add_argument("audio", type=Path, metavar="AUDIO")
    one.add_argument("-o", "--output", type=Path, default=Path("latents.npy"), metavar="PATH.npy")
    one.add_argument("--chunked", default=True, **_switch("in windows, to bound memory (on)"))
    _resampler(one)
    _model(one)
    _talk(one)


def _decode(commands: Commands) -> None:
    one = _command(commands, "decode", "turn latents into a sound file", " As `encode` and --save-latents write them.")
    one.add_argument("latents", type=Path, metavar="LATENTS.npy")
    one.add_argument("--chunked", default=True, **_switch("in windows, to bound memory (on)"))
    one.add_argument("--duration", type=float, dest="seconds", metavar="S", help="cut the sound there (all of it)")
    _sound(one, limiter="off")
    _model(one)
    _talk(one)


def _models(commands: Commands) -> None:
    one = _command(commands, "models", "list the models known by name, and which are on this machine")
    one.add_argument("--json", action="store_true", help=IN_JSON)


def _doctor(commands: Commands) -> None:
    one = _command(
        commands, "doctor", "say what works on this machine, and why not the rest", " Exit code 4 if nothing does."
    )
    one.add_argument("--model", default="nano", help="what to try it with (nano)")
    one.add_argument("--deep", action="store_true", help="a whole generation on every backend and device")
    one.add_argument("--json", action="store_true", help=IN_JSON)


# What several commands share


def _model(one: Parser, *, adapters: bool = False) -> None:
    group = one.add_argument_group("model")
    group.add_argument("--model", help="a name (see `sa3 models`), a folder, OWNER/REPOSITORY or random:NAME (nano)")
    group.add_argument("--revision", metavar="REV", help="of a repository: branch, tag or commit (main)")
    group.add_argument("--backend", metavar="NAME", help="auto, or one that `sa3 doctor` lists (auto)")
    group.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, directml, coreml (auto)")
    precision = group.add_mutually_exclusive_group()
    precision.add_argument(
        "--precision",
        metavar="P",
        help="a promise: exact, high, fast (int8) or compact (small in memory); or a number type: fp32, bf16, fp16, "
        "int8, int4 (auto: the fastest that the bundle holds and that keeps what high promises)",
    )
    precision.add_argument(
        "--no-half", dest="precision", action="store_const", const="fp32", help="the same as --precision fp32"
    )
    group.add_argument("--threads", type=int, metavar="N", help="on a CPU (as many as there are cores)")
    group.add_argument("--cores", metavar="LIST", help="stay on these processor cores, as in 0-3,6 (all)")
    group.add_argument(
        "--memory",
        choices=("normal", "low"),
        help="low: one network in memory at a time, in the smallest precision the bundle holds; slower (normal)",
    )
    if not adapters:
        return
    group.add_argument(
        "--lora-ckpt-path", type=Path, action="append", metavar="PATH", help="adapter, .safetensors; repeat for more"
    )
    group.add_argument(
        "--lora-strength",
        type=float,
        action="append",
        metavar="X",
        help="of all adapters, or repeated, one for each (1.0)",
    )
    group.add_argument("--lora-index", type=int, metavar="N", help="the one adapter, from 0, that a strength is for")


def _sound(one: Parser, *, limiter: str) -> Any:
    group = one.add_argument_group("output")
    group.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help=f"{FORMATS}; a batch gets _0, _1... (output.wav)"
    )
    group.add_argument("--format", metavar="NAME", help=f"{FORMATS}, where the name does not end in it")
    group.add_argument("--bits", choices=("16", "24", "32f"), help="of wav and flac (16)")
    group.add_argument(
        "--limiter", type=_limiter, metavar="DBTP|off", help=f"turn down what peaks over this; off clips ({limiter})"
    )
    group.add_argument(
        "--sample-rate",
        type=int,
        dest="rate",
        metavar="HZ",
        help="one that the format holds (the model's; in mp3, ogg and opus, the next one up that those hold)",
    )
    group.add_argument("--channels", type=int, choices=(1, 2), help="(the model's)")
    return group


def _resampler(one: Any) -> None:
    one.add_argument("--resampler", choices=("exact", "fast"), help="of given sound: the reference's, or soxr (exact)")


def _talk(one: Parser) -> None:
    group = one.add_argument_group("what is said")
    group.add_argument("--json", action="store_true", help=IN_JSON)
    group.add_argument("--progress", **_switch("a progress bar on stderr (when that is a terminal)"))
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _switch(about: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": about}


def _limiter(text: str) -> float | str:
    try:
        return text if text == "off" else float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of dBTP nor off") from e


def _shift(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a name nor JSON") from e
