"""ONNX Runtime on an NVIDIA GPU, by the provider of that name. Not run where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sa3_engines import graphs, models, selection, tables
from sa3_engines.engine import Engine, Options, Profiled
from sa3_engines.errors import Sa3Error
from sa3_engines.onnx import HEAVY
from sa3_runtime import Pipeline, Request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is not installed"
    ),
]
NANO = models.locate("nano")


def opened(device: str, source: models.Source = NANO, precision: str = "auto") -> Engine:
    engine, _ = selection.open_engine(source, "onnx", Options(device=device, precision=precision))
    return engine


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def velocity(engine: Engine) -> np.ndarray:
    dit = engine.config.dit
    assert dit is not None
    cond = normal(2, 5, dit.context_width), normal(2, dit.global_width)
    prepared = engine.run("prepare", graphs.prepare(engine.config, 211, *cond, normal(2, dit.local_width, 211)))
    features = tables.timestep_features(np.array([0.9, 0.3], np.float32), dit)
    return engine.run("step", {**prepared, "x": normal(2, dit.channels, 211), "timestep": features})["velocity"]


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


def test_the_golden_cases(golden: Path):
    program = Path(__file__).parent.parent / "conformance.py"
    command = [sys.executable, str(program), str(golden), "--backend", "onnx", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_exact_is_exact():
    """Products are fp32, where the provider's own choice would be three digits (TF32)."""
    here, there = opened("cpu"), opened("cuda:0")
    assert there.support.device == "cuda:0"
    assert far(velocity(here), velocity(there)) < 1e-4
    z = normal(1, here.config.autoencoder.latent_channels, 32)
    for graph, given in (
        ("decode", graphs.decode(here.config, z)),
        ("encode", graphs.encode(here.config, 0.1 * normal(1, 2, 32 * here.config.ratio))),
    ):
        (expected,), (got,) = (engine.run(graph, given).values() for engine in (here, there))
        assert far(expected, got) < 1e-4, graph


def test_what_takes_time_runs_on_the_gpu():
    """By ONNX Runtime's own account of which provider ran what; sizes and shapes are computed on the host."""
    engine = opened("cuda")
    assert isinstance(engine, Profiled)
    ran = engine.profile(
        "decode", graphs.decode(engine.config, normal(1, engine.config.autoencoder.latent_channels, 32))
    )
    assert {one.kernel for one in ran if HEAVY.search(one.operation)} == {"CUDAExecutionProvider"}


def test_a_clip_is_the_same_sound():
    clips: list[np.ndarray] = []
    for device in ("cpu", "cuda"):
        with Pipeline.load("nano", backend="onnx", device=device) as pipeline:
            clips.append(pipeline.generate(Request(prompt="C major chord on a synth pad", seconds=3.0, seed=1)).audio)
    assert far(*clips) < 1e-2


def test_a_gpu_that_is_not_there():
    with pytest.raises(Sa3Error):
        opened("cuda:63")
