"""What a dry run says: what would be made, how large, and for which machine. Nothing is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sa3_exporters import cli


def said(capsys: pytest.CaptureFixture[str], model: str, out: Path, *more: str) -> str:
    assert cli.main(["--model", model, "--target", "onnx", "--out", str(out), "--dry-run", *more]) == 0
    assert not out.exists()
    return capsys.readouterr().out


def test_a_dry_run_says_what_how_large_and_for_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = said(capsys, "nano", tmp_path / "out", "--precision", "exact,compact", "--max-seconds", "10")
    assert "precision  exact: fp32, weights as in the checkpoint" in lines
    assert "precision  compact: int4, about" in lines and "MB" in lines
    assert "durations  0 to 10 s" in lines and "cores" in lines


@pytest.mark.parametrize("name", ["tiny-small", "tiny-medium"])
@pytest.mark.parametrize("asked", ["text", "prepare,step", "encode", "decode", "text,prepare,step,encode,decode"])
def test_sizes_are_of_what_is_asked_for(
    bundles: Mapping[str, Path], golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, asked: str
):
    lines = said(capsys, str(golden / name), tmp_path / "out", "--precision", "fast", "--graphs", asked)
    found = re.search(r"fast: int8, about (\S+) MB", lines)
    assert found is not None
    made = sum((bundles[name] / f"{graph}.int8.safetensors").stat().st_size for graph in asked.split(","))
    assert float(found[1]) * 1e6 == pytest.approx(made, rel=0.05)
