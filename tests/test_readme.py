"""What README.md says to type: every command parses, and those that need no download run, in order, in one folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sa3_exporters import command as export
from sa3_runtime import Pipeline, Request
from sa3_runtime.command import arguments
from sa3_training import measures
from sa3_training.music import chord_checks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TYPED = [
    shlex.split(part, comments=True)
    for language, text in BLOCKS
    if not language
    for line in text.splitlines()
    for part in line.split("&&")
]
COMMANDS = [words for words in TYPED if words[:1] == ["sa3"]]
EXPORTS = [words for words in TYPED if words[:1] == ["sa3-export"]]


def test_there_are_commands():
    assert len(COMMANDS) >= 7 and len(EXPORTS) >= 3


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_parses(command: list[str]):
    arguments.parse(command[1:])


@pytest.mark.parametrize("command", EXPORTS, ids=" ".join)
def test_every_export_parses(command: list[str]):
    export.parser().parse_args(command[1:])


def test_the_commands_run(tmp_path: Path):
    """But for those on models that must be downloaded, and what is made from their output."""
    needs = {"small-sfx", "rain.json", "small-music", "my-bundle"}
    local = [c for c in COMMANDS if not needs & set(c)]
    assert len(local) >= 5
    for command in local:
        program = Path(sys.executable).parent / command[0]
        done = subprocess.run([program, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    assert (tmp_path / "longer.wav").stat().st_size > (tmp_path / "pad.wav").stat().st_size > 100_000


@pytest.mark.parametrize("seed", range(3))
def test_the_demo_makes_what_it_says(seed: int):
    """The first sound anybody hears: a mixture that nano does not know came out at a thirtieth of full scale."""
    (prompt,) = re.findall(r'sa3 generate --prompt "([^"]+)"', (ROOT / "Makefile").read_text("utf-8"))
    assert prompt in {words[words.index("-p") + 1] for words in COMMANDS if "-p" in words}
    with Pipeline.load("nano") as pipeline:
        made = pipeline.generate(Request(prompt=prompt, seconds=5, seed=seed)).audio[0]
    assert measures.peak(made) > 0.2
    assert prompt.startswith("C major chord") and all(check.passes(made) for check in chord_checks(0, "major"))


def test_the_python_without_torch_runs():
    (code,) = [text for language, text in BLOCKS if language == "python" and "sa3_runtime" in text]
    checked = code + "\nimport sys\nassert made.audio.shape == (1, 2, 220500) and 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", checked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
