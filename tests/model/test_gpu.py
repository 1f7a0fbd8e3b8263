"""On an NVIDIA GPU: the golden numbers, and what the reference runs there. Not run where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def test_golden_cases_on_cuda(golden: Path):
    program = Path(__file__).parent.parent / "conformance.py"
    done = subprocess.run(
        [sys.executable, str(program), str(golden), "--device", "cuda"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_full_size_in_half_precision():
    from sa3_runtime import Pipeline, Request

    with Pipeline.load("random:small-music", backend="torch", device="cuda") as pipeline:
        assert pipeline.engine.support.precision == "fp16"
        made = pipeline.generate(Request(prompt="rain", seconds=5.0, seed=1))
    assert made.audio.shape == (1, 2, 5 * 44100)
