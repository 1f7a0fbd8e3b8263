"""Full-size models with random weights: minutes and gigabytes, so marked slow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, resource, sys, time
start = time.perf_counter()
from sa3_runtime import Pipeline, Request
pipeline = Pipeline.load(sys.argv[1], backend="torch")
loaded = time.perf_counter() - start
made = pipeline.generate(Request(prompt="a warm synth pad", seconds=float(sys.argv[2]), seed=1))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"load_s": loaded, "peak_gb": peak, "shape": made.audio.shape} | dict(made.seconds_spent)))
"""


def run(model: str, seconds: float) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, str(seconds)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_small_makes_five_seconds_in_under_six_gigabytes():
    result = run("random:small-music", 5.0)
    assert result["shape"] == [1, 2, 5 * 44100]
    assert isinstance(result["peak_gb"], float) and result["peak_gb"] < 6


def test_medium_fits_and_runs():
    assert run("random:medium", 5.0)["shape"] == [1, 2, 5 * 44100]
