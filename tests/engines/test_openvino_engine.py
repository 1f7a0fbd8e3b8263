"""The OpenVINO engine on nano, whose graphs it reads as they are: against the torch engine, and its refusals."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sa3_engines import graphs, mapped, models, openvino_graph, selection, tables
from sa3_engines import openvino as engines
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.engine import GRAPHS, Engine, Options
from sa3_engines.errors import BackendUnavailable, BundleError, InvalidRequest, Sa3Error
from sa3_engines.models import Source
from sa3_engines.openvino import BACKEND, OpenVinoEngine
from stable_audio_3.engine import BACKEND as TORCH

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
NANO = models.locate("nano")
ONE = Options(threads=1)


def opened(device: str = "cpu", *, threads: int = 1, low_memory: bool = False) -> OpenVinoEngine:
    assert NANO.folder is not None
    files = {graph: NANO.folder / f"{graph}.onnx" for graph in GRAPHS}
    return OpenVinoEngine(NANO.config, files, device=device, threads=threads, low_memory=low_memory)


@pytest.fixture(scope="module")
def nano() -> Iterator[OpenVinoEngine]:
    engine = opened()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    engine = TORCH.open(NANO, ONE)
    yield engine
    engine.close()


@pytest.fixture
def exported(tmp_path: Path) -> Source:
    """nano, as if it had been exported for this engine."""
    folder = Path(shutil.copytree(models.HERE / "nano", tmp_path / "nano"))
    manifest = folder / "manifest.json"
    text = manifest.read_text().replace('"backends": [\n  "onnx"', '"backends": [\n  "openvino"')
    manifest.write_text(text)
    return models.from_folder(folder)


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


def test_nano_is_the_same_on_both_engines(nano: OpenVinoEngine, reference: Engine):
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


def test_results_are_the_callers_own(nano: OpenVinoEngine):
    """A second run leaves the first one's results alone."""
    first = velocity(nano)
    kept = first.copy()
    assert not np.array_equal(velocity(nano, key_bias=-(normal(1, nano.config.dit.memory_tokens + 21) ** 2)), kept)
    assert np.array_equal(first, kept)


def test_masks_that_are_left_out_change_nothing(nano: OpenVinoEngine):
    length = nano.config.dit.memory_tokens + 21
    ones, zeros = np.ones((1, length), np.float32), np.zeros((1, length), np.float32)
    given = {"value_gate": ones, "out_gate": ones, "key_bias": zeros, "context_bias": zeros[:, :9]}
    assert np.array_equal(velocity(nano, **given), velocity(nano))


def test_graphs_are_compiled_on_first_use_with_the_threads_asked_for():
    engine = opened()
    assert not engine._compiled
    engine.run("decode", graphs.decode(engine.config, normal(1, engine.config.autoencoder.latent_channels, 1)))
    assert set(engine._compiled) == {"decode"}
    compiled = engine._compiled["decode"].model
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    engine.close()
    assert not engine._compiled


def test_what_is_released_is_made_ready_again():
    engine = opened()
    first = velocity(engine)
    engine.release(("text", "prepare"))
    assert set(engine._compiled) == {"step"}
    assert np.array_equal(velocity(engine), first)
    engine.close()


def test_graphs_are_compiled_ahead_and_give_the_same():
    one, ahead = opened(threads=2), opened(threads=2)
    ahead.open_ahead(("step", "prepare", "decode"))
    assert np.array_equal(velocity(ahead), velocity(one))
    assert set(ahead._compiled) == {"prepare", "step"} and set(ahead._ahead._begun) == {"decode"}
    ahead.release(("decode",))
    ahead.open_ahead(("step", "prepare"))
    assert not ahead._ahead._begun, "they are there"
    for engine in (one, ahead):
        engine.close()


@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 2, "low_memory": True}])
def test_nothing_is_compiled_ahead_where_a_core_or_memory_is_short(how: dict[str, Any]):
    engine = opened(**how)
    engine.open_ahead(("step", "prepare"))
    assert not engine._ahead._begun
    engine.close()


def test_a_bundle_that_is_replaced_ahead_of_its_use_is_told_when_it_is_used(exported: Source):
    assert exported.folder is not None
    engine = BACKEND.open(exported, Options(threads=2))
    os.utime(exported.folder / "manifest.json", (0, 0))
    engine.open_ahead(("decode",))
    with pytest.raises(BundleError, match="was replaced or removed while it was open"):
        engine.run("decode", graphs.decode(NANO.config, normal(1, NANO.config.autoencoder.latent_channels, 2)))
    engine.close()


def test_what_is_compiled_ahead_is_not_kept_from_adapters():
    """And of a closed engine nothing is left."""
    engine, plain = opened(threads=2), opened(threads=2)
    changed = adapter(engine, "to_qkv", "to_cond_embed")
    plain.set_adapters([changed])
    engine.open_ahead(("step", "prepare", "decode"))
    engine.set_adapters([changed])
    assert np.array_equal(velocity(engine), velocity(plain))
    engine.close()
    assert not engine._ahead._begun and not engine._compiled
    plain.close()


def test_weights_are_returned_while_they_are_compiled(monkeypatch: pytest.MonkeyPatch):
    """Those of the file that the graph maps, and no others."""
    folder, found = NANO.folder, dict[str, list[mapped.Span]]()
    assert folder is not None
    returning = mapped.returning

    def watched(where: Path, addresses: list[int]):
        found["step"] = mapped._holding(where, np.array(addresses, np.uint64))
        return returning(where, addresses)

    monkeypatch.setattr(mapped, "returning", watched)
    engine = opened()
    engine._request("step")
    assert [span.shared for span in found["step"]] == [True]
    engine.close()


@pytest.mark.parametrize("graph", GRAPHS)
def test_products_of_any_rank_are_the_same(nano: OpenVinoEngine, graph: str):
    """The numbers and the outputs' shapes; only what made rows of everything is gone."""
    core = openvino.Core()
    plain, kept = (core.read_model(nano._graphs[graph]) for _ in range(2))
    assert openvino_graph.keep_dimensions(kept) > 5
    assert openvino_graph.keep_dimensions(kept) == 0
    flat, left = ([node.get_type_name() for node in model.get_ops()].count("Reshape") for model in (plain, kept))
    assert left < flat - 5
    shown = [port.partial_shape for port in kept.outputs]
    told = told_sizes(kept)
    assert openvino_graph.copy_sizes(kept) == told - told_sizes(kept) >= 2
    assert openvino_graph.copy_sizes(kept) == 0
    assert [port.partial_shape for port in kept.outputs] == shown
    for one, other in zip(plain.outputs, kept.outputs, strict=True):
        assert one.partial_shape == other.partial_shape and one.names == other.names
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    feeds = nano._host.inputs(graph, inputs_of(nano, graph))
    first, second = (core.compile_model(model, "CPU", settings)(feeds) for model in (plain, kept))
    for one, other in zip(first.values(), second.values(), strict=True):
        assert np.array_equal(one, other) and np.isfinite(one).all()


def told_sizes(model: Any) -> int:
    """How many arrays are given sizes that are computed while the graph runs."""
    reshapes = [node for node in model.get_ops() if node.get_type_name() == "Reshape"]
    return sum(node.input_value(1).get_node().get_type_name() != "Constant" for node in reshapes)


def test_sizes_that_are_traded_stay_told():
    """Chunks taken from a length have other leading dimensions than the whole had."""
    op = openvino.opset13
    x = op.parameter([-1, -1, 12], np.float32)
    rows = op.gather(op.shape_of(x, output_type="i64"), op.constant([0]), op.constant(0))

    def shaped(*last: int) -> Any:
        return op.reshape(x, op.concat([rows, op.constant(np.array(last, np.int64))], 0), special_zero=False)

    split, folded = shaped(-1, 3, 4), shaped(-1, 2, 12)
    model = openvino.Model([split, folded], [x], "sizes")
    assert openvino_graph.copy_sizes(model) == 1 and told_sizes(model) == 1
    got = openvino.Core().compile_model(model, "CPU")(np.arange(2 * 6 * 12, dtype=np.float32).reshape(2, 6, 12))
    assert [value.shape for value in got.values()] == [(2, 6, 3, 4), (2, 3, 2, 12)]


def inputs_of(engine: OpenVinoEngine, graph: str) -> dict[str, np.ndarray]:
    config = engine.config
    dit, text = config.dit, config.text
    assert dit is not None and text is not None
    ids = np.arange(3, 23).reshape(2, 10)
    cond = normal(2, 9, dit.context_width), normal(2, dit.global_width)
    match graph:
        case "text":
            return graphs.text(text, ids, np.ones_like(ids))
        case "prepare":
            return graphs.prepare(config, 21, *cond, None)
        case "encode":
            return graphs.encode(config, 0.1 * normal(2, 2, 6 * config.ratio))
        case "decode":
            return graphs.decode(config, normal(2, config.autoencoder.latent_channels, 6))
        case _:
            features = tables.timestep_features(np.array([0.7, 0.2]), dit)
            prepared = engine.run("prepare", inputs_of(engine, "prepare"))
            return {**prepared, "x": normal(2, dit.channels, 21), "timestep": features}


def test_it_says_what_it_is(exported: Source):
    engine, choice = selection.open_engine(exported, options=ONE)
    assert choice.backend == "openvino"
    support = engine.support
    assert (support.backend, support.device, support.precision, support.tier) == ("openvino", "cpu", "fp32", "exact")
    assert support.graphs == frozenset(GRAPHS) and support.adapters
    assert openvino.__version__.startswith(support.versions["openvino"])
    engine.close()


def test_it_needs_no_torch(exported: Source, tmp_path: Path):
    code = f"""
import sys; sys.modules["torch"] = None; sys.modules["onnx"] = None
import numpy as np
from pathlib import Path
from sa3_engines import graphs, models, selection
engine, _ = selection.open_engine(models.from_folder(Path({str(exported.folder)!r})), "openvino")
latents = np.ones((1, engine.config.autoencoder.latent_channels, 3), np.float32)
audio = engine.run("decode", graphs.decode(engine.config, latents))["audio"]
assert audio.shape == (1, 2, 4 * 4096) and np.isfinite(audio).all()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Refusals


def test_devices_that_are_not_here():
    with pytest.raises(BackendUnavailable, match="no device 'abacus'; choose from cpu, gpu, npu"):
        selection.open_engine(NANO, "openvino", Options(device="abacus"))
    for device in {"gpu", "npu", "gpu:7"} - {name.partition(":")[0] for name in BACKEND.devices()}:
        with pytest.raises(BackendUnavailable, match=f"device {device}: OpenVINO sees no such device here, only .*cpu"):
            selection.open_engine(NANO, "openvino", Options(device=device))


def test_a_device_that_does_not_start():
    if "gpu" in {name.partition(":")[0] for name in BACKEND.devices()}:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailable, match="OpenVINO cannot run decode on device gpu: "):
        opened("gpu")


def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert BACKEND.why_not() == "OpenVINO is not installed; pip install 'sa3-runtime[openvino]'"


def test_another_precision_than_was_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """OpenVINO then goes on in what it has, without an error."""
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has fp16")
    monkeypatch.setitem(engines.HINTS, "fp32", "f16")
    with pytest.raises(BackendUnavailable, match=r"asked to run decode in fp32 and takes .* on this cpu"):
        opened()._request("decode")


@pytest.mark.parametrize("given", [None, "7"])
def test_what_onednn_is_told_is_for_openvino_alone(given: str | None, monkeypatch: pytest.MonkeyPatch):
    """Torch's asks the environment too; what a user told both of them stays."""
    name, seen = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", []
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    compiling = engines.core().compile_model

    class Watched:
        def __getattr__(self, one: str) -> Any:
            return getattr(engines_core, one)

        def compile_model(self, model: Any, device: str, settings: Any) -> Any:
            seen.append((os.environ[name], settings["CPU_RUNTIME_CACHE_CAPACITY"]))
            return compiling(model, device, settings)

    engines_core = engines.core()
    engine = opened()
    engine._core = Watched()
    engine._request("decode")
    engine.close()
    assert seen == [(given or "0", engines.KEPT)]
    assert os.environ.get(name) == given


def test_a_bundle_for_another_engine():
    with pytest.raises(BackendUnavailable, match="exported for onnx; run: sa3-export --model nano --target openvino"):
        selection.open_engine(NANO, "openvino")


def test_a_precision_the_bundle_does_not_have(exported: Source):
    with pytest.raises(BackendUnavailable, match=r"no precision 'bf16', only exact \(fp32\)"):
        selection.open_engine(exported, "openvino", Options(precision="bf16"))


def test_a_graph_that_is_none(tmp_path: Path):
    for path in (models.HERE / "nano").rglob("*.*"):
        target = tmp_path / path.relative_to(models.HERE / "nano")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "decode.onnx").write_bytes(b"no graph")
    engine = OpenVinoEngine(NANO.config, {"decode": tmp_path / "decode.onnx"})
    with pytest.raises(BundleError, match=r"decode\.onnx cannot be read by OpenVINO"):
        engine.run("decode", graphs.decode(NANO.config, normal(1, NANO.config.autoencoder.latent_channels, 2)))


def test_a_bundle_without_its_manifest_is_told_for_what_it_is(exported: Source):
    assert exported.folder is not None
    (exported.folder / "manifest.json").unlink()
    with pytest.raises(BackendUnavailable, match=r"no bundle: there are graphs and no manifest\.json; run: sa3-export"):
        selection.open_engine(models.from_folder(exported.folder), "openvino")


def test_weights_that_are_gone_are_named(exported: Source):
    assert exported.folder is not None
    engine = BACKEND.open(exported, ONE)
    (exported.folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"decode\.onnx cannot be read by OpenVINO: .*model\.safetensors"):
        engine.run("decode", graphs.decode(NANO.config, normal(1, NANO.config.autoencoder.latent_channels, 2)))


def test_inputs_that_do_not_fit(nano: OpenVinoEngine):
    inputs = graphs.decode(nano.config, normal(1, nano.config.autoencoder.latent_channels, 2))
    with pytest.raises(Sa3Error, match="OpenVINO failed in decode on cpu"):
        nano.run("decode", inputs | {"latents": normal(1, nano.config.autoencoder.latent_channels - 1, 2)})
    with pytest.raises(Sa3Error, match="no graph 'dream'"):
        nano.run("dream", {})


# Adapters


def adapter(engine: OpenVinoEngine, *parts: str, kind: str = "lora") -> ActiveAdapter:
    chosen = {
        module: {"lora_A": normal(4, columns), "lora_B": normal(rows, 4)}
        for module, (rows, columns) in engine.adaptable().items()
        if any(part in module for part in parts)
    }
    assert chosen
    made = Adapter(name="a", kind=kind, rank=4, alpha=4.0, include=None, exclude=(), modules=chosen)
    return ActiveAdapter(adapter=made)


@pytest.mark.parametrize("part", ["to_qkv", "cross_attn.to_kv", "preprocess_conv", "to_local_embed.2", "to_cond_embed"])
def test_adapters_are_the_same_on_both_engines(nano: OpenVinoEngine, reference: Engine, part: str):
    """In graphs of `prepare` and of `step`; nano's fp16 weights are rounded once more after merging."""
    assert nano.adaptable() == reference.adaptable()
    plain = velocity(nano)
    for one in (nano, reference):
        one.set_adapters([adapter(nano, part)])
    changed = velocity(nano)
    difference = error(plain, changed)
    assert difference > 1e-3
    assert error(velocity(reference), changed) < min(2e-3, difference / 4)
    for one in (nano, reference):
        one.set_adapters([])
    assert np.array_equal(velocity(nano), plain)


def test_adapters_that_fail_change_nothing(nano: OpenVinoEngine):
    nano.set_adapters([adapter(nano, "to_qkv")])
    before = velocity(nano)
    wrong = adapter(nano, "to_kv")
    module = next(iter(wrong.adapter.modules))
    nowhere = Adapter(
        name="b", kind="lora-xs", rank=10**6, alpha=1.0, include=None, exclude=(),
        modules={module: {"M_xs": np.zeros((1, 1), np.float32)}},
    )  # fmt: skip
    with pytest.raises(InvalidRequest):
        nano.set_adapters([ActiveAdapter(adapter=nowhere)])
    assert np.array_equal(velocity(nano), before)
    nano.set_adapters([])


def test_little_memory_holds_one_network_and_keeps_adapters(nano: OpenVinoEngine):
    engine = opened(low_memory=True)
    for one in (engine, nano):
        one.set_adapters([adapter(nano, "to_qkv", "to_cond_embed")])
    assert np.array_equal(velocity(engine), velocity(nano))
    assert set(engine._compiled) == {"step"}
    nano.set_adapters([])
    engine.close()


def test_it_says_where_its_time_goes(exported: Source):
    engine = BACKEND.open(exported, ONE)
    dit = engine.config.dit
    assert dit is not None
    before = velocity(engine)
    prepared = engine.run(
        "prepare", graphs.prepare(engine.config, 21, normal(1, 5, dit.context_width), normal(1, dit.global_width), None)
    )
    level = tables.timestep_features(np.ones(1, np.float32), dit)
    ran = engine.profile("step", {**prepared, "x": normal(1, dit.channels, 21), "timestep": level})
    assert sum(one.operation == "FullyConnected" and one.kernel.endswith("_f32") for one in ran) > 10
    assert sum(one.seconds for one in ran) > 0
    assert np.array_equal(before, velocity(engine))
    engine.close()


def test_times_are_those_of_a_warm_run(exported: Source):
    """OpenVINO tells averages over all runs: of a slow first and a fast second one, the second is wanted."""

    def told(*seconds: float) -> list[Any]:
        times = [timedelta(seconds=one) for one in seconds]
        return [SimpleNamespace(node_type="Split", exec_type="ref_f32", real_time=time) for time in times]

    assert [one.seconds for one in engines._second(told(2.0, 1.0), told(1.25, 1.0))] == pytest.approx([0.5, 1.0])
    # Averages they are: the sum would be forty times one run.
    engine = BACKEND.open(exported, ONE)
    latents = graphs.decode(engine.config, normal(1, engine.config.autoencoder.latent_channels, 40))
    ready = engine._compile("decode", engine._model("decode", ()), {"PERF_COUNT": "YES"})
    whole: list[float] = []
    for _ in range(40):
        ready.request.infer(engine._host.inputs("decode", latents))
        whole.append(sum(one.real_time.total_seconds() for one in ready.request.get_profiling_info()))
    assert whole[-1] < 10 * whole[0]
    engine.close()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_bundle_that_was_replaced_while_it_was_open(tmp_path: Path, how: str):
    """What is open already stays as it was; what is opened later would be of another model."""
    folder = tmp_path / "bundle"
    shutil.copytree(models.HERE / "nano", folder)
    engine = OpenVinoEngine(NANO.config, {graph: folder / f"{graph}.onnx" for graph in GRAPHS}, threads=1)
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


TWO_ENGINES = """
import gc, signal
from sa3_engines import models
from sa3_engines.openvino import OpenVinoEngine

source = models.locate("nano")
both = [OpenVinoEngine(source.config, {"step": source.folder / "step.onnx"}, threads=1) for _ in range(2)]
for engine in both:
    engine._request("step")
both.pop(0)
gc.collect()
both.clear()
del engine
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_is_heard_when_two_engines_are_gone():
    done = subprocess.run([sys.executable, "-c", TWO_ENGINES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
