"""Checkpoints whose weights are stored in half precision: what adapters make of them keeps all its digits."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa3_engines import adapters, graphs, likeness, models, tables
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.engine import Engine, Options
from sa3_engines.models import Source
from sa3_engines.onnx import OnnxEngine
from sa3_engines.openvino import OpenVinoEngine
from sa3_exporters import cli
from stable_audio_3.engine import BACKEND as TORCH

Array = np.ndarray
Opens = Callable[[Source], Engine]


@pytest.fixture(scope="module")
def exported(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The exact transformer, whose files are the same for both backends; of its weights one is bf16, the next fp16."""
    folder = tmp_path_factory.mktemp("half")
    shutil.copytree(golden / "tiny-small", folder / "model", ignore=shutil.ignore_patterns("cases", "loras"))
    path = folder / "model" / "model.safetensors"
    kinds = itertools.cycle((torch.bfloat16, torch.float16))
    save_file({key: tensor.to(kind) for (key, tensor), kind in zip(load_file(path).items(), kinds, strict=False)}, path)
    flags = ["--target", "onnx", "--precision", "exact", "--graphs", "prepare,step", "--max-seconds", "3"]
    assert cli.main(["--model", str(folder / "model"), "--out", str(folder / "out"), *flags]) == 0
    return models.from_folder(folder / "out")


def opened(engine: type[OnnxEngine | OpenVinoEngine]) -> Opens:
    def opens(source: Source) -> Engine:
        assert source.folder is not None
        files = {graph: source.folder / f"{graph}.onnx" for graph in ("prepare", "step")}
        return engine(source.config, files, threads=1)

    return opens


def velocity(engine: Engine) -> Array:
    dit = engine.config.dit
    assert dit is not None
    draw = np.random.default_rng(0)
    context, cond, x = (
        draw.standard_normal(shape, np.float32)
        for shape in ((1, 5, dit.context_width), (1, dit.global_width), (1, dit.channels, 13))
    )
    step = {"x": x, "timestep": tables.timestep_features(np.full(1, 0.6, np.float32), dit)}
    prepared = engine.run("prepare", graphs.prepare(engine.config, 13, context, cond, None))
    return engine.run("step", prepared | step)["velocity"]


@pytest.mark.parametrize("opens", [opened(OnnxEngine), opened(OpenVinoEngine)], ids=["onnx", "openvino"])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_adapters_are_not_rounded(exported: Source, golden: Path, opens: Opens, strength: float):
    """What a weak adapter changes is less than half precision tells apart."""
    loaded = adapters.load(golden / "tiny-small" / "loras" / "lora.safetensors")
    assert exported.folder is not None
    engines = TORCH.open(exported, Options(threads=1)), opens(exported)
    plain = [velocity(engine) for engine in engines]
    for engine in engines:
        engine.set_adapters([ActiveAdapter(adapter=loaded, strength=strength)])  # pyright: ignore[reportAttributeAccessIssue]
    expected, got = (velocity(engine) - before for engine, before in zip(engines, plain, strict=True))
    assert np.abs(expected).max() > 1e-4 * strength
    assert likeness.snr_db(expected, got) > 40
    for engine in engines:
        engine.set_adapters([])  # pyright: ignore[reportAttributeAccessIssue]
    assert np.array_equal(velocity(engines[1]), plain[1])


def test_types_are_changed_in_place(exported: Source):
    import onnx

    from sa3_engines import onnx_types

    assert exported.folder is not None
    before = (exported.folder / "step.onnx").read_bytes()
    model = onnx.load_model_from_string(before)
    names = [tensor.name for tensor in model.graph.initializer if tensor.data_type != onnx_types.FP32][:3]
    assert len(names) == 3
    after = onnx.load_model_from_string(onnx_types.as_fp32(before, names))
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.data_type = onnx.TensorProto.FLOAT
    assert after == model
    assert onnx_types.as_fp32(before, ()) == before
    with pytest.raises(ValueError, match="no ONNX file"):
        onnx_types.as_fp32(b"\x0f" + before, names)
