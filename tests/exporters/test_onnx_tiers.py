"""Tiers of small weights in ONNX: what is rewritten and what is not, the floors, and adapters on top."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import save_file

from sa3_engines import adapters, graphs, likeness, models, tables, tiers
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.engine import GRAPHS, Engine, Options
from sa3_engines.onnx import OnnxEngine
from sa3_engines.quantise import SCALE, Blocks
from sa3_engines.tensors import TensorFile
from sa3_exporters import islands, onnx_tiers, targets
from sa3_exporters.targets import Tier, Weight
from stable_audio_3.engine import BACKEND as TORCH

TINY = ("tiny-small", "tiny-medium")
MADE = {name: tier for name, tier in targets.load("onnx").tiers().items() if isinstance(tier, Tier)}
SMALL = (tiers.FAST, tiers.COMPACT)
Pair = tuple[Engine, OnnxEngine, str]


def weights_of(folder: Path) -> dict[str, Weight]:
    places = folder.rglob("model.safetensors")
    return {
        key: Weight(path.relative_to(folder).as_posix(), stored)
        for path in places
        for key, stored in TensorFile(path).tensors.items()
    }


def rewritten(bundle: Path, folder: Path, tier: Tier) -> dict[str, Path]:
    """The graphs of a bundle in a tier, in a folder of their own, which links the weights."""
    for path in bundle.rglob("model.safetensors"):
        (folder / path.relative_to(bundle)).parent.mkdir(exist_ok=True)
        os.link(path, folder / path.relative_to(bundle))
    weights = weights_of(folder)
    made: dict[str, Path] = {}
    for graph in GRAPHS:
        model = ir.load(bundle / f"{graph}.onnx")
        first, _ = onnx_tiers.rewrite(model, tier, weights, folder, f"{graph}.{tier.type}")
        made[graph] = folder / first
    return made


@pytest.fixture
def four_bits_for_all_sizes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(islands, "LARGE", 0)


@pytest.fixture(scope="module", params=[(model, tier) for model in TINY for tier in SMALL], ids="-".join)
def pair(
    request: pytest.FixtureRequest, bundles: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The torch engine and the ONNX engine in a tier, over the same weights."""
    model, tier = request.param
    source = models.from_folder(bundles[model])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(islands, "LARGE", 0)
        files = rewritten(bundles[model], tmp_path_factory.mktemp(tier), MADE[tier])
    reference, exported = TORCH.open(source, Options(threads=1)), OnnxEngine(source.config, files, threads=1)
    yield reference, exported, tier
    reference.close()
    exported.close()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def velocity(engine: Engine, batch: int, frames: int, inpaint: bool = False, t: float = 0.7) -> np.ndarray:
    dit = engine.config.dit
    assert dit is not None
    local = normal(batch, dit.local_width, frames) if inpaint else None
    cond = normal(batch, 9, dit.context_width), normal(batch, dit.global_width)
    prepared = engine.run("prepare", graphs.prepare(engine.config, frames, *cond, local))
    features = tables.timestep_features(np.full(batch, t, np.float32), dit)
    x = normal(batch, dit.channels, frames)
    return engine.run("step", {**prepared, "x": x, "timestep": features})["velocity"]


# Floors


@pytest.mark.parametrize("t", [1.0, 0.5, 0.01])
@pytest.mark.parametrize(("batch", "frames", "inpaint"), [(1, 1, False), (1, 29, True), (2, 17, False), (2, 13, True)])
def test_a_step_keeps_the_floor(pair: Pair, batch: int, frames: int, inpaint: bool, t: float):
    reference, exported, tier = pair
    expected, got = (velocity(engine, batch, frames, inpaint, t) for engine in (reference, exported))
    assert tiers.FLOORS[tier] < likeness.cosine(expected, got) < 1 - 1e-6


@pytest.mark.parametrize("batch", [1, 2])
def test_text_and_codec_keep_the_floor(pair: Pair, batch: int):
    reference, exported, tier = pair
    c = reference.config
    assert c.text is not None
    ids = np.arange(batch * 7).reshape(batch, 7) * 5 % c.text.vocab_size
    multiple = c.autoencoder.encoder.latents_multiple
    cases = {
        "text": graphs.text(c.text, ids, np.ones_like(ids)),
        "encode": graphs.encode(c, 0.2 * normal(batch, c.autoencoder.channels, 3 * multiple * c.ratio)),
        "decode": graphs.decode(c, normal(batch, c.autoencoder.latent_channels, 5)),
    }
    for graph, inputs in cases.items():
        (expected,), (got,) = (engine.run(graph, inputs).values() for engine in (reference, exported))
        assert likeness.cosine(expected, got) > tiers.FLOORS[tier], graph


# What is rewritten


def linear_keys(model: Any) -> set[str]:
    """The weights of all Gemms; those stored in half precision are cast first."""
    cast = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    return {cast.get(node.input[1], node.input[1]) for node in model.graph.node if node.op_type == "Gemm"}


@pytest.mark.usefixtures("four_bits_for_all_sizes")
@pytest.mark.parametrize("tier", SMALL)
def test_every_linear_layer_but_the_islands(bundles: Mapping[str, Path], tmp_path: Path, tier: str):
    wanted = MADE[tier]
    seen = ""
    for graph, path in rewritten(bundles["tiny-small"], tmp_path, wanted).items():
        model = onnx.load(path, load_external_data=False)
        exact = onnx.load(bundles["tiny-small"] / f"{graph}.onnx", load_external_data=False)
        file = TensorFile(path.with_suffix(".safetensors"))
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        linear, kept = linear_keys(exact), linear_keys(model)
        small = {node.input[1]: node for node in model.graph.node if node.op_type == "MatMulNBits"}
        assert kept == {key for key in linear if any(re.search(part, key) for part in wanted.exact)}
        assert set(small) == linear - kept and set(file.tensors) == {*small, *(key + SCALE for key in small)}
        for key in small:
            blocks = Blocks.parse(file.metadata[key])
            for name in (key, key + SCALE):
                place = {entry.key: entry.value for entry in held[name].external_data}
                assert place["location"] == path.with_suffix(".safetensors").name
                assert int(place["offset"]) == file.tensors[name].offset
            assert file.tensors[key].offset % onnx_tiers.ALIGNMENT == 0
            assert blocks.bits == (4 if tier == "compact" and re.search(r"^model\.model.*\.ff\.", key) else 8)
        seen += " ".join(kept)
    assert all(part in seen for part in ("to_timestep_embed", "to_global_embed", "global_cond_embedder"))


@pytest.mark.usefixtures("four_bits_for_all_sizes")
def test_a_graph_that_comes_out_the_same_is_written_once(bundles: Mapping[str, Path], tmp_path: Path):
    """Only the transformer's steps have four-bit weights."""
    rewritten(bundles["tiny-small"], tmp_path, MADE["fast"])
    weights, made = weights_of(tmp_path), dict[Any, tuple[str, ...]]()
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    for tier in SMALL:
        for graph in ("text", "step"):
            model = ir.load(bundles["tiny-small"] / f"{graph}.onnx")
            names[tier, graph] = onnx_tiers.rewrite(
                model, MADE[tier], weights, tmp_path, f"{graph}.{MADE[tier].type}", made
            )
    assert names["compact", "text"] == names["fast", "text"] == ("text.int8.onnx", "text.int8.safetensors")
    assert names["compact", "step"] == ("step.int4.onnx", "step.int4.safetensors")
    assert not (tmp_path / "text.int4.onnx").exists()


def test_weights_stored_in_half_precision(tmp_path: Path):
    """nano's: the graph casts them, and the cast goes with them."""
    step = models.HERE / "nano" / "step.onnx"
    os.link(models.HERE / "nano" / "model.safetensors", tmp_path / "model.safetensors")
    onnx_tiers.rewrite(ir.load(step), MADE["fast"], weights_of(tmp_path), tmp_path, "step")
    file = TensorFile(tmp_path / "step.safetensors")
    key = "model.model.transformer.layers.0.self_attn.to_qkv.weight"
    assert file.tensors[key].dtype == "U8"
    left = onnx.load(tmp_path / "step.onnx", load_external_data=False).graph.node
    assert not [node for node in left if node.op_type == "Cast" and node.input[0] in file.tensors]
    onnxruntime.InferenceSession(tmp_path / "step.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.usefixtures("four_bits_for_all_sizes")
@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("columns", [7, 64, 100, 200])
@pytest.mark.parametrize("bias", [False, True])
def test_the_operator_reads_weights_as_they_are_written(tmp_path: Path, form: str, columns: int, bias: bool):
    """Also where the columns do not divide into groups."""
    key, rows = "model.model.x.ff.weight", 9
    made = {key: normal(rows, columns), "bias": normal(rows)}
    save_file(made, tmp_path / "model.safetensors")
    inputs = ["x", key, "bias"] if bias else ["x", key]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", inputs, ["y"], transB=1)],
        "g",
        [value("x", 1, ["n", columns])],
        [value("y", 1, ["n", rows])],
        [onnx.numpy_helper.from_array(made[name], name) for name in inputs[1:]],
    )
    whole = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    tier = Tier(name="fast", type=form)
    onnx_tiers.rewrite(ir.from_proto(whole), tier, weights_of(tmp_path), tmp_path, "g")
    file = TensorFile(tmp_path / "g.safetensors")
    stored, scale = Blocks.parse(file.metadata[key]).store(made[key])
    got_weight = Blocks.parse(file.metadata[key]).restore(stored, scale, columns)
    x = normal(5, columns)
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    got: Any = session.run(None, {"x": x})[0]
    assert likeness.cosine(x @ got_weight.T + (made["bias"] if bias else 0), got) > 0.9999


# Adapters


@pytest.mark.parametrize("kinds", [*((kind,) for kind in adapters.TYPES), ("lora", "dora-rows")], ids="+".join)
def test_adapters_on_quantised_weights(pair: Pair, golden: Path, kinds: tuple[str, ...]):
    """Every type, and a stack of two, against the torch engine; what comes back without them is what was there."""
    reference, exported, tier = pair
    folder = golden / ("tiny-medium" if reference.config.dit and reference.config.dit.differential else "tiny-small")
    loaded = [adapters.load(folder / "loras" / f"{kind}.safetensors") for kind in kinds]
    stack = [ActiveAdapter(adapter=one) for one in loaded]
    plain, quantised = velocity(reference, 2, 21), velocity(exported, 2, 21)
    for engine in (reference, exported):
        engine.set_adapters(stack)  # pyright: ignore[reportAttributeAccessIssue]
    expected, got = velocity(reference, 2, 21), velocity(exported, 2, 21)
    for engine in (reference, exported):
        engine.set_adapters([])  # pyright: ignore[reportAttributeAccessIssue]
    assert likeness.cosine(expected, got) > tiers.FLOORS[tier]
    assert likeness.cosine(plain, expected) < tiers.FLOORS[tier]  # it is not the unchanged model that was compared
    assert np.array_equal(velocity(exported, 2, 21), quantised)


# The table


def test_what_this_target_makes():
    made = targets.load("onnx").tiers()
    assert set(made) == set(tiers.TIERS)
    assert isinstance(made["high"], str) and "openvino" in made["high"]
    assert (MADE["exact"].type, MADE["fast"].type, MADE["compact"].type) == ("fp32", "int8", "int4")
    assert not MADE["exact"].exact and any(re.search(p, ".to_timestep_embed.0.weight") for p in MADE["fast"].exact)
