"""The flags of `sa3-bench`. Imports nothing heavy, so that --help answers at once."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sa3_bench import cases
from sa3_engines.flags import Parser, Version

EXIT_CODES = """\
exit codes:
  0    done; of compare: nothing became slower or broke
  1    it failed here, with the reason given
  2    the request cannot be done: a flag, a file
  3    the model is not there or does not fit together
  4    no backend that can run it, or a machine on battery or throttled
  5    a stage produced NaN, silence, a constant or another number of samples
  6    the result could not be written
  7    compare found a regression
  130  interrupted; table --resume goes on from there
"""
Commands = Any  # argparse's own type of it is private


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def parser() -> Parser:
    top = Parser(
        prog="sa3-bench",
        description="How long Stable Audio 3 takes on this machine.",
        epilog=f"{cases.TIMED.format(padding=cases.PADDING)}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=Version)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_table, _once, _compare, _interleave, _tiers, _profile, _history, _limits, _report):
        add(commands)
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


def _names(text: str) -> list[str]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("nothing is named")
    return found


def _file_name(text: str) -> str:
    if not text.strip() or text in (".", "..") or {"/", "\\", "\0"} & set(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file's name; --out says the folder")
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _seconds(text: str) -> list[float]:
    return [_positive(word) for word in _names(text)]


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value


def _counts(text: str) -> list[int]:
    return [_count(word) for word in _names(text)]


def _table(commands: Commands) -> None:
    one = _command(
        commands,
        "table",
        "the published latency table with this machine's columns",
        " Each case runs in a process of its own and is saved when it is done. Writes NAME.json, .md and .html.",
    )
    what = one.add_argument_group("what is measured")
    what.add_argument(
        "--models",
        type=_names,
        default=["small-music", "medium", "nano"],
        metavar="M,...",
        help="names, folders, random:NAME (small-music,medium,nano)",
    )
    what.add_argument(
        "--durations",
        type=_seconds,
        default=list(cases.DURATIONS),
        metavar="S,...",
        help="seconds; those a model does not make are left out (5,30,120,380)",
    )
    what.add_argument("--batches", type=_counts, default=[1], metavar="N,...", help="items at once (1)")
    what.add_argument("--backends", type=_names, metavar="B,...", help="engines (all that can run here)")
    what.add_argument("--precision", type=_names, default=["auto"], metavar="P,...", help="tiers (each engine's own)")
    what.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1 ... (each engine's own)")
    what.add_argument(
        "--weights",
        choices=("auto", "real", "random"),
        default="auto",
        help="for released models; auto takes real ones that are already on this machine",
    )
    _how(what)
    one.add_argument("--export", action="store_true", help="export the bundles that engines miss, first")
    one.add_argument(
        "--peers", action="store_true", help="also measure upstream and diffusers where they are installed"
    )
    one.add_argument("--upstream-python", metavar="PATH", help="the Python of an environment that has upstream")
    one.add_argument("--diffusers-python", metavar="PATH", help="the Python of one that has diffusers (this one)")
    one.add_argument(
        "--clap",
        metavar="MODULE:FUNCTION",
        help="a score of clips of real weights: called with samples (channels, n), the rate and the prompt",
    )
    one.add_argument("--no-limits", action="store_true", help="leave the machine's limits out")
    one.add_argument("--no-quality", action="store_true", help="leave the comparison with fp32 out")
    one.add_argument("--repeat", type=_count, default=3, metavar="N", help="timed runs of each case (3)")
    one.add_argument(
        "--warmup-steps", type=_count, default=2, metavar="N", help="sampling steps of the run that is not timed (2)"
    )
    one.add_argument(
        "--most-seconds",
        type=_positive,
        default=math.inf,
        metavar="S",
        help="begin no further run of a case after this long, once there are two",
    )
    one.add_argument("--timeout", type=_positive, default=3600.0, metavar="S", help="for one case (3600)")
    one.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="(benchmarks/results)")
    one.add_argument("--name", type=_file_name, metavar="NAME", help="of the files (the machine's)")
    one.add_argument("--work", type=Path, metavar="DIR", help="for clips between cases (~/.cache/sa3-bench)")
    one.add_argument(
        "--resume", action="store_true", help="keep what was measured with the same code and versions, and add to it"
    )
    one.add_argument("--allow-battery", action="store_true", help="measure on battery or throttled, and say so")


def _how(group: Any) -> None:
    group.add_argument("--threads", type=_count, metavar="N", help="processor threads (all cores)")
    group.add_argument("--steps", type=_count, default=cases.STEPS, metavar="N", help=f"({cases.STEPS})")
    group.add_argument("--seed", type=int, default=cases.SEED, metavar="N", help=f"({cases.SEED})")
    group.add_argument(
        "--padding",
        type=float,
        default=cases.PADDING,
        metavar="S",
        help=f"seconds made beyond the end, as the reference does ({cases.PADDING:g})",
    )
    group.add_argument("--whole-decode", action="store_true", help="decode in one pass, not in windows")


def _one_engine(group: Any) -> None:
    group.add_argument("--backend", default="auto", metavar="B", help="(auto)")
    group.add_argument("--precision", default="auto", metavar="P", help="(auto)")
    group.add_argument("--device", default="auto", metavar="D", help="(auto)")


def _once(commands: Commands) -> None:
    one = _command(
        commands,
        "once",
        "one untimed and one timed run, in this fresh process",
        ' The last line printed is one JSON object with {"runs": [{"T": latents, "t5", "step", "loop", "decode", '
        '"generate": seconds, "peak_rss_mb": 10^6 bytes, ...}]}.',
    )
    one.add_argument("--model", required=True, metavar="M", help="a name, a folder, owner/repository or random:NAME")
    one.add_argument("--seconds", type=_positive, default=30.0, metavar="S", help="(30)")
    one.add_argument("--batch", type=_count, default=1, metavar="N", help="(1)")
    _one_engine(one)
    _how(one)
    one.add_argument("--repeat", type=_count, default=1, metavar="N", help="timed runs (1)")
    one.add_argument("--warmup-steps", type=_count, metavar="N", help="steps of the untimed run (as many as --steps)")
    one.add_argument("--most-seconds", type=_positive, default=math.inf, metavar="S", help="begin no run after this")
    one.add_argument("--encode", action="store_true", help="also time the encoder over as much sound")
    one.add_argument("--reload", action="store_true", help="load a second time at the end, to time it warm")
    one.add_argument("--save-audio", type=Path, metavar="FILE.npy", help="where the clip goes")
    one.add_argument("--save-parity", type=Path, metavar="FILE.npz", help="where the answers to fixed inputs go")
    one.add_argument("--source", default="", metavar="M", help="what is opened under the model's name, as a bundle")
    one.add_argument("--weights-are", choices=("real", "random"), help="what the result is to say")


def _compare(commands: Commands) -> None:
    one = _command(
        commands,
        "compare",
        "what became faster or slower from one result to another",
        " Results of `table`, or files with lines of `once`. Runs that took turns are compared pair by pair, others "
        "with a wider margin. A case that broke, makes other samples or is slower is a regression: exit code 7.",
    )
    one.add_argument("first", type=Path, metavar="A.json")
    one.add_argument("second", type=Path, metavar="B.json")
    one.add_argument(
        "--margin", type=float, metavar="X", help="a difference not believed (0.02 for runs that took turns, else 0.05)"
    )
    one.add_argument(
        "--stage", default="generate", metavar="NAME", help="t5, step, loop, decode or generate (generate)"
    )
    one.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def _interleave(commands: Commands) -> None:
    one = _command(
        commands,
        "interleave",
        "run two programs in turn, for compare",
        " Each prints what `once` prints, as its last line: `sa3-bench once` with other flags, of another checkout, or "
        "any other program. Writes A.json and B.json.",
    )
    one.add_argument("first", metavar="COMMAND_A", help="as the shell takes it, in quotes")
    one.add_argument("second", metavar="COMMAND_B")
    one.add_argument("--repeat", type=_count, default=8, metavar="N", help="pairs (8)")
    one.add_argument("--timeout", type=_positive, default=3600.0, metavar="S", help="for one run (3600)")
    one.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="(here)")


def _history(commands: Commands) -> None:
    one = _command(commands, "history", "results over the commits that recorded them, as one HTML file and as lines")
    one.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="(benchmarks/results)"
    )
    one.add_argument("--out", type=Path, default=Path("history.html"), metavar="FILE", help="(history.html)")


def _tiers(commands: Commands) -> None:
    one = _command(
        commands,
        "tiers",
        "every tier of every engine against the plain torch engine, taking turns in one process",
        " The model's bundles must have been exported. Writes tiers-NAME.json and .md.",
    )
    one.add_argument("--model", required=True, metavar="M", help="a name, a folder or random:NAME")
    one.add_argument("--durations", type=_seconds, default=[5.0, 30.0, 120.0], metavar="S,...", help="(5,30,120)")
    one.add_argument(
        "--backends", type=_names, default=["torch", "onnx", "openvino"], metavar="B,...", help="(torch,onnx,openvino)"
    )
    one.add_argument("--tiers", type=_names, metavar="T,...", help="only these of the bundles' tiers (all)")
    one.add_argument("--rounds", type=_count, default=3, metavar="N", help="(3)")
    one.add_argument("--steps", type=_count, default=cases.STEPS, metavar="N", help=f"({cases.STEPS})")
    one.add_argument("--threads", type=_count, metavar="N", help="processor threads (all cores)")
    one.add_argument("--no-memory", action="store_true", help="leave out loading each engine by itself")
    one.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="(benchmarks/results)")
    one.add_argument("--name", type=_file_name, metavar="NAME", help="of the files (the machine's)")


def _profile(commands: Commands) -> None:
    one = _command(
        commands,
        "profile",
        "where the time of one graph goes",
        " Every operation with what carried it out, as the runtime itself counts them.",
    )
    one.add_argument("--model", required=True, metavar="M", help="a name, a folder or random:NAME")
    one.add_argument("--graph", default="step", metavar="G", help="text, prepare, step, encode or decode (step)")
    one.add_argument("--seconds", type=_positive, default=30.0, metavar="S", help="(30)")
    _one_engine(one)
    one.add_argument("--threads", type=_count, metavar="N", help="processor threads (all cores)")
    one.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def _limits(commands: Commands) -> None:
    one = _command(commands, "limits", "what this machine can do at most: matrix products and memory bandwidth")
    one.add_argument("--threads", type=_count, metavar="N", help="processor threads (all cores)")
    one.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(cpu)")


def _report(commands: Commands) -> None:
    one = _command(commands, "report", "write the Markdown and HTML of a result once more")
    one.add_argument("result", type=Path, metavar="RESULT.json")
    one.add_argument("--work", type=Path, metavar="DIR", help="where the clips are (~/.cache/sa3-bench)")
