"""A slip in what an export is asked for is told before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from sa3_exporters import cli
code = cli.main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--precision", "foo"], 2, "no precision 'foo'; choose from auto, exact"),
        (["--precision", "exact,fo0"], 2, "no precision 'fo0'"),
        (["--precision", ","], 2, "no precision is asked for"),
        (["--graphs", "sing"], 2, "a model has no graph 'sing'; it has text, prepare"),
        (["--graphs", ","], 2, "no graph is asked for; choose from text"),
        (["--graphs", "step"], 2, "step needs what prepare gives"),
        (["--model", "random:same-s", "--graphs", "text"], 2, "has no graph 'text'; it has encode, decode"),
        (["--max-seconds", "nan"], 2, "nan s is no duration"),
        (["--min-seconds", "-1"], 2, "-1 s is no duration"),
        (["--max-seconds", "500"], 2, "nano was made for 20.062 s at most, and 500 were asked"),
        (["--min-seconds", "9", "--opt-seconds", "3"], 2, "--min-seconds 9 is longer than --opt-seconds 3"),
        (["--min-seconds", "5", "--max-seconds", "3"], 2, "--min-seconds 5 is longer than --max-seconds 3"),
        (["--opt-seconds", "5", "--max-seconds", "3"], 2, "--opt-seconds 5 is longer than --max-seconds 3"),
        (["--min-seconds", "30"], 2, "nano was made for 20.062 s at most, and 30 were asked"),
        (["--max-seconds", "0"], 2, "--max-seconds 0 leaves no duration"),
        (["--islands", "none.json"], 2, "table of islands none.json cannot be read: No such file"),
        (["--islands", "text"], 2, "table of islands text is not JSON"),
        (["--islands", "letters.json"], 2, 'fast has "step", which is no list'),
        (["--islands", "strange.json"], 2, "table of islands strange.json: no tier 'fats'; choose from exact"),
        (["--precision", "exact,high"], 4, "target onnx cannot make precision high here: ONNX Runtime has no half"),
        (["--out", "text"], 6, "text is a file; an export is a folder"),
        (["--out", "full"], 6, "full holds something else than a bundle"),
        (["--out", "~nobody-here/x"], 6, "is no folder's name"),
        (["--target", "foo"], 2, "argument --target: no choice 'foo'; choose from onnx, openvino"),
        (["--model", "nope"], 3, "no model 'nope'"),
        (["--model", "~nobody-here/x"], 3, "no model '~nobody-here/x'"),
    ],
)
def test_what_can_be_told_without_torch_is(tmp_path: Path, words: list[str], code: int, said: str):
    (tmp_path / "text").write_text("no table")
    (tmp_path / "letters.json").write_text('{"tiers": {"fast": {"exact": "step"}}}')
    (tmp_path / "strange.json").write_text('{"tiers": {"fats": {}}}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    command = [sys.executable, "-c", CODE, "--model", "nano", "--target", "onnx", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert done.stderr.startswith("sa3-export: ") and done.stderr.count("\n") == 1
    assert "True" not in done.stdout


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="needs a mount point")
def test_a_mount_point_is_no_place_to_be_taken(tmp_path: Path):
    """A container's volume: whatever is in it, it cannot be renamed once all is done."""
    command = [sys.executable, "-c", CODE, "--model", "nano", "--target", "onnx", "--out", "/dev/shm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 6 and "True" not in done.stdout
    assert done.stderr.startswith("sa3-export: /dev/shm is a mount point, and") and done.stderr.count("\n") == 1
