"""What is wrong with flags is said in one sentence by every command alike."""

from __future__ import annotations

import argparse

import pytest

from sa3_bench import arguments as bench
from sa3_engines.flags import Parser
from sa3_exporters import command as export
from sa3_exporters import sensitivity
from sa3_runtime.command import arguments as sa3
from stable_audio_3 import cli as stable_audio


def refused(parser: argparse.ArgumentParser, line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line.split())
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err


@pytest.mark.parametrize(
    ("parser", "line", "said"),
    [
        (sa3.parser(), "generate --promt rain", "sa3 generate: unknown flag --promt; did you mean --prompt?"),
        (sa3.parser(), "generate -p x --dur 3", "sa3 generate: unknown flag --dur; did you mean --duration?"),
        (sa3.parser(), "generate -p x -steps 3", "sa3 generate: unknown flag -steps; did you mean --steps?"),
        (sa3.parser(), "generate rain", "sa3 generate: unexpected argument 'rain'; see"),
        (sa3.parser(), "generat", "sa3: no command 'generat'; did you mean generate?"),
        (sa3.parser(), "sing", "sa3: no command 'sing'; choose from generate, encode, decode, models, doctor; see"),
        (sa3.parser(), "--model nano generate", "sa3: unknown flag --model; a command's flags come after its name"),
        (sa3.parser(), "", "sa3: missing: COMMAND; see"),
        (stable_audio.parser(), "--promt rain", "stable-audio: unknown flag --promt; did you mean --prompt?"),
        (stable_audio.parser(), "-p x --steps 1.5", "stable-audio: argument --steps: '1.5' is not a whole number; see"),
        (export.parser(), "--model nano --tarjet onnx", "sa3-export: unknown flag --tarjet; did you mean --target?"),
        (export.parser(), "--model nano", "sa3-export: missing: --target; see"),
        (bench.parser(), "tabel", "sa3-bench: no command 'tabel'; did you mean table?"),
        (bench.parser(), "once --model m --seconds -1", "'-1' is not a number above 0; see"),
        (bench.parser(), "table --durations 5,x", "argument --durations: 'x' is not a number above 0; see"),
        (bench.parser(), "table --batches 1,2.5", "argument --batches: '2.5' is not a whole number of 1 or more; see"),
        (sensitivity.parser(), "--tier exact", "argument --tier: no choice 'exact'; choose from high, fast, compact"),
    ],
)
def test_one_sentence_and_where_to_look(
    parser: argparse.ArgumentParser, line: str, said: str, capsys: pytest.CaptureFixture[str]
):
    err = refused(parser, line, capsys)
    assert said in err and err.endswith("--help\n") and err.count("\n") == 1


def test_what_a_parser_takes_is_as_it_was():
    parser = Parser(prog="try")
    parser.add_argument("--text", nargs="+")
    parser.add_argument("--number", type=int)
    parser.add_argument("rest", nargs="*")
    found = parser.parse_args(["--num", "-3", "--text", "--no flag", "-1", "--", "--other"])
    assert (found.number, found.text, found.rest) == (-3, ["--no flag", "-1"], ["--other"])
