"""The house rules: what is imported when, what the wheel holds, who imports whom."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"sa3_runtime", "stable_audio_3", "sa3_engines", "sa3_exporters", "sa3_bench"}
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "matplotlib")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_importing_loads_nothing_heavy(package: str):
    done = python(f"import sys, {package}; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package", ["sa3_runtime", "stable_audio_3", "sa3_exporters"])
def test_a_commands_package_takes_no_time(package: str):
    """What comes before Ctrl-C is answered is a traceback when it is pressed."""
    done = python(
        f"import sys; b = set(sys.modules); import {package}; print({{'typing', 're'}} & set(sys.modules) - b)"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_pipeline_needs_no_torch():
    done = python(f"import sys, sa3_runtime.pipeline; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_makes_and_writes_nothing(tmp_path: Path):
    code = "import sa3_runtime.pipeline, stable_audio_3, sa3_engines.models, sa3_exporters"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()) and not done.stdout and not done.stderr


@pytest.mark.parametrize("command", ["sa3", "stable-audio", "sa3-export", "sa3-bench"])
def test_help_is_instant(command: str):
    """Under half a second; the best of three, since the machine may be busy."""
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([Path(sys.executable).parent / command, "--help"], capture_output=True, check=False)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0 and b"usage" in done.stdout.lower()
    assert best < 0.5


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert "sa3_engines/nano/model.safetensors" in names
    assert "sa3_engines/released/small.json" in names
    assert wheel.stat().st_size < 20e6


def test_the_runtime_says_what_it_has():
    """Names that are imported when they are asked for are found by `dir`, and so by completion."""
    done = python(
        "import sa3_runtime as s; assert set(s.__all__) <= set(dir(s)); "
        "assert all(getattr(s, name) for name in s.__all__); print(s.__version__)"
    )
    assert done.stdout[:1].isdigit(), done.stderr
