"""The golden numbers, and whether the program that checks them can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def conformance(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "conformance.py"), *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "backend",
    ["torch", pytest.param("onnx", marks=pytest.mark.slow), pytest.param("openvino", marks=pytest.mark.slow)],
)
def test_every_golden_case_passes(backend: str):
    """Engines that run bundles have the miniatures exported first."""
    done = conformance(HERE / "golden", "--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [p for p in (HERE / "golden").rglob("*.safetensors") if p.parent.name not in ("loras", "t5gemma-b-b-ul2")]
    cases = [p for p in files if p.name != "model.safetensors"]
    assert done.stdout.splitlines()[-1] == f"{len(cases)} passed, 0 failed"


@pytest.mark.parametrize(
    ("case", "tensor"), [("dit_plain", "out.v"), ("same_decode_T11", "out.audio"), ("e2e_text2audio", "out.latents")]
)
def test_a_wrong_number_fails(tmp_path: Path, golden: Path, case: str, tensor: str):
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", folder, ignore=lambda d, names: names if d.endswith("/cases") else [])
    path = golden / "tiny-small" / "cases" / f"{case}.safetensors"
    with safe_open(path, "np") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    (folder / "cases").mkdir(exist_ok=True)
    tensors[tensor].flat[0] += 0.01 * np.abs(tensors[tensor]).max()
    save_file(tensors, folder / "cases" / path.name, metadata)
    done = conformance(folder)
    assert done.returncode == 1
    assert f"worst: {tensor}" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_a_case_it_does_not_know_is_not_passed_over(tmp_path: Path, golden: Path):
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", folder, ignore=lambda d, names: names if d.endswith("/cases") else [])
    (folder / "cases").mkdir(exist_ok=True)
    save_file({"out.x": np.ones(3, np.float32)}, folder / "cases" / "hologram_1.safetensors")
    done = conformance(folder)
    assert done.returncode == 1
    assert "no rule for such a case" in done.stdout


@pytest.mark.parametrize("args", [("/nowhere",), (HERE / "golden" / "constants", "--backend", "abacus")])
def test_bad_arguments(tmp_path: Path, args: tuple[object, ...]):
    done = conformance(*args)
    assert done.returncode == (2 if args[0] == "/nowhere" else 0)  # constants need no backend
    assert conformance(tmp_path).returncode == 2  # no cases
