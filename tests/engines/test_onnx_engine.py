"""The ONNX engine on nano, which is here as weights and as graphs: against the torch engine, and its refusals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from sa3_engines import graphs, models, onnx, selection, tables
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.engine import GRAPHS, Adaptable, Engine, Options
from sa3_engines.errors import BackendUnavailable, BundleError, Sa3Error
from sa3_engines.onnx import BACKEND, OnnxEngine
from sa3_engines.tensors import TensorFile
from stable_audio_3.engine import BACKEND as TORCH

ONE = Options(threads=1)


@pytest.fixture(scope="module")
def nano() -> Iterator[OnnxEngine]:
    engine = BACKEND.open(models.locate("nano"), ONE)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    engine = TORCH.open(models.locate("nano"), ONE)
    yield engine
    engine.close()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def error(expected: np.ndarray, got: np.ndarray) -> float:
    assert expected.shape == got.shape and np.isfinite(got).all()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def velocity(engine: Engine, frames: int = 21, **masks: np.ndarray) -> np.ndarray:
    dit = engine.config.dit
    assert dit is not None
    cond = normal(1, 9, dit.context_width), normal(1, dit.global_width)
    prepared = engine.run("prepare", graphs.prepare(engine.config, frames, *cond, None) | masks)
    features = tables.timestep_features(np.array([0.7]), dit)
    return engine.run("step", {**prepared, "x": normal(1, dit.channels, frames), "timestep": features})["velocity"]


def test_nano_is_the_same_on_both_engines(nano: OnnxEngine, reference: Engine):
    config = nano.config
    assert config.text is not None
    ids = np.arange(3, 40)[None]
    cases = {
        "text": graphs.text(config.text, ids, np.ones_like(ids)),
        "encode": graphs.encode(config, 0.1 * normal(1, 2, 6 * config.ratio)),
        "decode": graphs.decode(config, normal(1, config.autoencoder.latent_channels, 5)),
    }
    for graph, inputs in cases.items():
        wanted, found = (engine.run(graph, inputs) for engine in (reference, nano))
        assert found.keys() == wanted.keys()
        (expected,), (got,) = wanted.values(), found.values()
        assert error(expected, got) < 1e-5, graph
    assert error(velocity(reference), velocity(nano)) < 1e-5
    expected, got = reference.constants(), nano.constants()
    assert expected.keys() == got.keys() and all(np.array_equal(expected[name], got[name]) for name in expected)


def test_auto_takes_it_and_says_where_it_runs():
    engine, choice = selection.open_engine(models.locate("nano"), options=ONE)
    assert choice.backend == "onnx" and not choice.passed_over
    assert (engine.support.backend, engine.support.device, engine.support.precision) == ("onnx", "cpu", "fp32")
    assert engine.support.graphs == frozenset(GRAPHS) and engine.support.adapters
    assert engine.support.versions == {"onnxruntime": onnxruntime.__version__}
    engine.close()


def test_sessions_are_made_on_first_use():
    engine = BACKEND.open(models.locate("nano"), ONE)
    assert not engine._sessions
    engine.run("decode", graphs.decode(engine.config, normal(1, engine.config.autoencoder.latent_channels, 1)))
    assert set(engine._sessions) == {"decode"}
    engine.close()


def test_what_is_released_is_made_ready_again():
    engine = BACKEND.open(models.locate("nano"), ONE)
    first = velocity(engine)
    engine.release(("text", "prepare"))
    assert set(engine._sessions) == {"step"}
    assert np.array_equal(velocity(engine), first)
    engine.close()


def test_graphs_share_the_memory_they_run_in(tmp_path: Path):
    """The same again needs no more; what a long clip left behind goes with the next clip's text."""
    code = """
import re
from pathlib import Path
import numpy as np
from sa3_engines import graphs, models
from sa3_engines.engine import Options
from sa3_engines.onnx import BACKEND
def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
def decode(count):
    latents = np.ones((1, engine.config.autoencoder.latent_channels, count), np.float32)
    return engine.run("decode", graphs.decode(engine.config, latents))
def text():
    ids = np.arange(3, 9)[None]
    return engine.run("text", graphs.text(engine.config.text, ids, np.ones_like(ids)))
engine = BACKEND.open(models.locate("nano"), Options(threads=1))
text(), decode(2)
before = resident()
decode(1500)
after = resident()
decode(1500)
again = resident()
text()
print(before, after, again, resident())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    before, after, again, cleared = map(float, done.stdout.split())
    assert after > before + 50
    assert again < after + (after - before) / 4
    assert cleared < before + (after - before) / 4


def test_it_needs_no_torch(tmp_path: Path):
    code = """
import sys; sys.modules["torch"] = None; sys.modules["onnx"] = None
import numpy as np
from sa3_engines import graphs, models, selection
engine, _ = selection.open_engine(models.locate("nano"))
latents = np.ones((1, engine.config.autoencoder.latent_channels, 3), np.float32)
audio = engine.run("decode", graphs.decode(engine.config, latents))["audio"]
assert audio.shape == (1, 2, 4 * 4096) and np.isfinite(audio).all()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_reports_nothing_to_the_makers_of_onnx_runtime(tmp_path: Path):
    """Which begins with a name for this machine in the user's cache folder."""
    told = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    code = "from sa3_engines.onnx import BACKEND; BACKEND.versions()"
    subprocess.run([sys.executable, "-c", code], env=told | {"XDG_CACHE_HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


# Refusals


def test_an_unknown_device():
    with pytest.raises(BackendUnavailable, match="no device 'abacus'; choose from cpu, cuda, directml, coreml"):
        selection.open_engine(models.locate("nano"), "onnx", Options(device="abacus"))


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cpu:1", "no device 'cpu:1'; cpu has no numbers"),
        ("cpu:", "cpu has no numbers"),
        ("coreml:0", "coreml has no numbers"),
        ("cuda:x", "no device 'cuda:x'; a GPU is cuda, or one of several by its number: cuda:0, cuda:1"),
        ("cuda:", "a GPU is cuda"),
        ("cuda:²", "a GPU is cuda"),
        ("directml:-1", "a GPU is directml"),
        ("auto:1", "no device 'auto:1'"),
    ],
)
def test_devices_that_are_none(device: str, said: str):
    assert said in str(BACKEND.why_not(device))


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "directml", "coreml"])
def test_a_provider_that_is_not_here(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match=r"ExecutionProvider here, only CPUExecutionProvider; .*pip "):
        selection.open_engine(models.locate("nano"), "onnx", Options(device=device))
    assert BACKEND.devices() == ["cpu"]


def test_a_provider_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime then goes on with the CPU, without an error."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx.PROVIDERS.values()))
    fake = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_args, **_more: fake)
    with pytest.raises(BackendUnavailable, match="CUDAExecutionProvider did not start, CPUExecutionProvider did"):
        selection.open_engine(models.locate("nano"), "onnx", Options(device="cuda"))


def test_a_provider_that_takes_nothing(monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime then runs everything on the CPU, as with Azure's provider, which every package has."""
    monkeypatch.setitem(onnx.PROVIDERS, "coreml", "AzureExecutionProvider")
    with pytest.raises(BackendUnavailable, match=r"coreml: AzureExecutionProvider left Conv, .*MatMul.* to the CPU"):
        selection.open_engine(models.locate("nano"), "onnx", Options(device="coreml"))


def test_a_precision_the_bundle_does_not_have():
    with pytest.raises(BackendUnavailable, match=r"bundle of nano has no precision 'fp16', only exact \(fp32\)"):
        selection.open_engine(models.locate("nano"), "onnx", Options(precision="fp16"))


def test_what_holds_no_graphs(golden: Path):
    with pytest.raises(
        BackendUnavailable, match=r"tiny-small is no bundle; run: sa3-export --model .*tiny-small --target onnx"
    ):
        selection.open_engine(models.from_folder(golden / "tiny-small"), "onnx")
    with pytest.raises(BackendUnavailable, match="sa3-export --model random:nano:1 --target onnx"):
        selection.open_engine(models.locate("random:nano:1"), "onnx")


def test_a_damaged_bundle_is_an_error_and_not_a_reason_for_torch(tmp_path: Path):
    folder = Path(shutil.copytree(models.HERE / "nano", tmp_path / "nano"))
    with (folder / "step.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with pytest.raises(BundleError, match=r"step\.onnx was changed"):
        selection.open_engine(models.from_folder(folder))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        selection.open_engine(models.from_folder(folder))


def test_a_bundle_for_another_engine(tmp_path: Path):
    folder = Path(shutil.copytree(models.HERE / "nano", tmp_path / "nano"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"backends": [\n  "onnx"', '"backends": [\n  "abacus"'))
    with pytest.raises(BackendUnavailable, match="was exported for abacus"):
        selection.open_engine(models.from_folder(folder), "onnx")


def test_inputs_that_do_not_fit(nano: OnnxEngine):
    inputs = graphs.decode(nano.config, normal(1, nano.config.autoencoder.latent_channels, 2))
    with pytest.raises(Sa3Error, match="ONNX Runtime failed in decode on cpu"):
        nano.run("decode", inputs | {"latents": normal(1, nano.config.autoencoder.latent_channels - 1, 2)})
    with pytest.raises(Sa3Error, match="no graph 'dream'"):
        nano.run("dream", {})


# Adapters, and weights in half precision


def adapter(engine: Adaptable, *parts: str) -> ActiveAdapter:
    shapes = engine.adaptable()
    chosen = {
        module: {"lora_A": normal(4, columns), "lora_B": normal(rows, 4)}
        for module, (rows, columns) in shapes.items()
        if any(part in module for part in parts)
    }
    assert chosen
    made = Adapter(name="a", kind="lora", rank=4, alpha=4.0, include=None, exclude=(), modules=chosen)
    return ActiveAdapter(adapter=made)


@pytest.mark.parametrize("part", ["to_qkv", "cross_attn.to_kv", "preprocess_conv", "to_local_embed.2", "to_cond_embed"])
def test_adapters_are_the_same_on_both_engines(reference: Engine, part: str):
    """In graphs of `prepare` and of `step`; nano's fp16 weights are rounded once more after merging."""
    engine = BACKEND.open(models.locate("nano"), ONE)
    assert isinstance(reference, Adaptable)
    assert engine.adaptable() == reference.adaptable()
    plain = velocity(engine)
    for one in (engine, reference):
        one.set_adapters([adapter(one, part)])
    changed = velocity(engine)
    difference = error(plain, changed)
    assert difference > 1e-3
    assert error(velocity(reference), changed) < min(2e-3, difference / 4)
    for one in (engine, reference):
        one.set_adapters([])
    assert np.array_equal(velocity(engine), plain)
    engine.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_in_every_precision(tmp_path: Path, dtype: torch.dtype):
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"odd": torch.ones(1, dtype=torch.float16), "table": table}, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    assert np.array_equal(file.array("table"), table.float().numpy())
    ids = np.array([[6, 0], [2, 2]])
    assert np.array_equal(file.rows("table", ids), table[torch.from_numpy(ids)].float().numpy())


def test_masks_that_are_left_out_change_nothing(nano: OnnxEngine):
    assert nano.config.dit is not None
    length = nano.config.dit.memory_tokens + 21
    ones, zeros = np.ones((1, length), np.float32), np.zeros((1, length), np.float32)
    given = {"value_gate": ones, "out_gate": ones, "key_bias": zeros, "context_bias": zeros[:, :9]}
    assert np.array_equal(velocity(nano, **given), velocity(nano))


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_bundle_that_was_replaced_while_it_was_open(tmp_path: Path, how: str):
    """What is open already stays as it was; what is opened later would be of another model."""
    folder = tmp_path / "bundle"
    shutil.copytree(models.HERE / "nano", folder)
    engine = BACKEND.open(models.from_folder(folder), ONE)
    before = velocity(engine)
    (folder / "manifest.json").unlink()
    if how == "replaced":
        shutil.copyfile(models.HERE / "nano" / "manifest.json", folder / "manifest.json")
    else:
        shutil.rmtree(folder)
    np.testing.assert_array_equal(velocity(engine), before)
    latents = np.zeros((1, engine.config.autoencoder.latent_channels, 8), np.float32)
    with pytest.raises(BundleError, match=r"bundle .* was replaced or removed while it was open; open the model again"):
        engine.run("decode", graphs.decode(engine.config, latents))
    engine.close()


def test_a_file_that_is_not_of_the_bundle_is_not_read(tmp_path: Path, nano: OnnxEngine):
    folder = tmp_path / "bundle"
    shutil.copytree(models.HERE / "nano", folder)
    (folder / "step.safetensors").write_text("mine")
    engine = BACKEND.open(models.from_folder(folder), ONE)
    np.testing.assert_array_equal(velocity(engine), velocity(nano))
    engine.close()
