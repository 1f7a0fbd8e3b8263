"""Export to OpenVINO: floors of every tier, what is stored and marked, adapters on top, and a whole bundle.

Nothing is traced here: the ONNX graphs are those of the ONNX tests' bundles.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa3_engines import (
    adapters,
    bundle,
    graphs,
    likeness,
    models,
    openvino_graph,
    openvino_weights,
    processor,
    selection,
    tables,
    tiers,
)
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.engine import GRAPHS, Engine, Options
from sa3_engines.errors import BackendUnavailable
from sa3_engines.openvino import OpenVinoEngine
from sa3_engines.quantise import SCALE
from sa3_exporters import cli, islands, placing
from sa3_exporters import openvino as exporter
from sa3_exporters.openvino import TARGET
from sa3_exporters.targets import Tier, Work
from stable_audio_3.engine import BACKEND as TORCH

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
TINY = ("tiny-small", "tiny-medium")
OFFERED = TARGET.tiers()
ONE = Options(threads=1)
# Of these two, what this processor can run.
MADE = tuple(name for name in (tiers.EXACT, tiers.FAST) if isinstance(OFFERED[name], Tier))


def tier(name: str) -> Tier:
    offered = OFFERED[name]
    if isinstance(offered, str):
        pytest.skip(offered)
    return offered


def work(source: Path, folder: Path) -> Work:
    """The graphs and weights of an ONNX bundle, as the exporter has them when it comes to a lower tier."""
    for path in (*source.rglob("*.safetensors"), *source.rglob("*.json")):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    (folder / "manifest.json").unlink()
    config = models.from_folder(folder).config
    assert config.text is not None
    weights = placing.weights(folder, config.text.folder)
    known = {graph: source / f"{graph}.onnx" for graph in GRAPHS}
    return Work(folder=folder, config=config, networks=None, weights=weights, known=known)


@pytest.fixture(scope="module")
def works(bundles: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Work]:
    return {name: work(bundles[name], tmp_path_factory.mktemp(name)) for name in TINY}


@pytest.fixture(scope="module", params=TINY)
def reference(request: pytest.FixtureRequest, bundles: Mapping[str, Path]) -> Iterator[tuple[str, Engine]]:
    engine = TORCH.open(models.from_folder(bundles[request.param]), ONE)
    yield request.param, engine
    engine.close()


@pytest.fixture(scope="module", params=tiers.TIERS)
def pair(
    request: pytest.FixtureRequest, reference: tuple[str, Engine], works: Mapping[str, Work]
) -> Iterator[tuple[Engine, OpenVinoEngine]]:
    """The torch engine, and the OpenVINO engine in a tier, over the same weights."""
    name, expected = reference
    engine = opened(works[name], tier(request.param))
    yield expected, engine
    engine.close()


def opened(made: Work, wanted: Tier) -> OpenVinoEngine:
    engine = TARGET.open(made, wanted, {graph: TARGET.convert(graph, wanted, made)[0] for graph in GRAPHS})
    engine._threads = 1
    return engine


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def check(pair: tuple[Engine, OpenVinoEngine], expected: np.ndarray, got: np.ndarray) -> None:
    name = pair[1].support.tier
    assert likeness.cosine(expected, got) >= tiers.FLOORS[name]
    if name == tiers.EXACT:
        assert likeness.relative_error(expected, got) < 1e-5


def run(engine: Engine, graph: str, inputs: dict[str, Any]) -> np.ndarray:
    (value,) = engine.run(graph, inputs).values()
    return value


def step_inputs(engine: Engine, batch: int, frames: int, inpaint: bool = False) -> dict[str, Any]:
    dit = engine.config.dit
    assert dit is not None
    local = normal(batch, dit.local_width, frames) if inpaint else None
    cond = normal(batch, 5, dit.context_width), normal(batch, dit.global_width)
    prepared = engine.run("prepare", graphs.prepare(engine.config, frames, *cond, local))
    features = tables.timestep_features(np.linspace(0.2, 1, batch, dtype=np.float32), dit)
    return {**prepared, "x": normal(batch, dit.channels, frames), "timestep": features}


def velocity(engine: Engine, batch: int, frames: int, inpaint: bool = False) -> np.ndarray:
    return engine.run("step", step_inputs(engine, batch, frames, inpaint))["velocity"]


# Every tier, at sizes that change


def test_every_graph_keeps_its_tiers_promise(pair: tuple[Engine, OpenVinoEngine]):
    c = pair[0].config
    assert c.text is not None
    for batch, tokens in ((1, 7), (2, 3)):
        ids = np.arange(batch * tokens).reshape(batch, tokens) * 7 % c.text.vocab_size
        check(pair, *(run(engine, "text", graphs.text(c.text, ids, np.ones_like(ids))) for engine in pair))
    for batch, frames, inpaint in ((1, 29, False), (2, 17, True)):
        check(pair, *(velocity(engine, batch, frames, inpaint) for engine in pair))
    for batch, chunks in ((1, 3), (2, 1)):
        latents = chunks * c.autoencoder.encoder.latents_multiple
        sound = 0.1 * normal(batch, c.autoencoder.channels, latents * c.ratio)
        check(pair, *(run(engine, "encode", graphs.encode(c, sound)) for engine in pair))
        z = normal(batch, c.autoencoder.latent_channels, 2 * chunks - 1)
        check(pair, *(run(engine, "decode", graphs.decode(c, z)) for engine in pair))


@pytest.mark.parametrize("kind", adapters.TYPES)
def test_adapters_keep_their_tiers_promise(
    pair: tuple[Engine, OpenVinoEngine], golden: Path, reference: tuple[str, Engine], kind: str
):
    """A golden adapter of every type, on the torch engine and here; then without it everything is as before."""
    name, expected = reference
    loaded = adapters.load(golden / name / "loras" / f"{kind}.safetensors")
    active = [ActiveAdapter(adapter=loaded)]
    plain = [velocity(engine, 1, 13) for engine in pair]
    for engine in pair:
        engine.set_adapters(active)
    changed = [velocity(engine, 1, 13) for engine in pair]
    assert likeness.cosine(plain[0], changed[0]) < tiers.FLOORS[tiers.HIGH]
    check(pair, *changed)
    for engine in pair:
        engine.set_adapters([])
    assert np.array_equal(velocity(pair[1], 1, 13), plain[1])
    assert np.array_equal(velocity(expected, 1, 13), plain[0])


# What is in the files


def constants(path: Path) -> dict[str, Any]:
    model = openvino.Core().read_model(path)
    return {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}


@pytest.mark.parametrize("name", [tiers.FAST, tiers.COMPACT])
def test_quantised_weights_keep_their_names(works: Mapping[str, Work], name: str):
    made, wanted = works["tiny-small"], tier(name)
    first, data = TARGET.convert("step", wanted, made)
    assert first.endswith(".xml") and data == first.replace(".xml", ".bin")
    held = constants(made.folder / first)
    kinds: set[str] = set()
    for key in ("transformer.layers.0.self_attn.to_qkv", "transformer.layers.1.ff.ff.2"):
        node, scale = held[f"model.model.{key}.weight"], held[f"model.model.{key}.weight{SCALE}"]
        kinds.add(node.get_element_type().get_type_name())
        rows = made.weights[f"model.model.{key}.weight"].stored.shape[0]
        assert node.get_output_shape(0)[0] == scale.get_output_shape(0)[0] == rows
    assert "i8" in kinds and kinds <= {"i8", "i4"}
    steering = held["model.model.to_timestep_embed.0.weight"]
    assert steering.get_element_type().get_type_name() == "f32"


def test_four_bits_are_for_whole_groups(works: Mapping[str, Work], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(islands, "LARGE", 0)
    made = works["tiny-small"]
    wanted = Tier(name=tiers.COMPACT, type="int4", exact=islands.patterns("openvino", tiers.COMPACT))
    held = constants(made.folder / TARGET.convert("step", wanted, made)[0])
    found = {key: node.get_element_type().get_type_name() for key, node in held.items() if key + SCALE in held}
    assert found
    for key, kind in found.items():
        whole = made.weights[key].stored.shape[1] % 64 == 0
        assert kind == ("i4" if ".ff." in key and whole else "i8"), key
    monkeypatch.undo()
    held = constants(made.folder / TARGET.convert("step", wanted, made)[0])
    assert {node.get_element_type().get_type_name() for key, node in held.items() if key + SCALE in held} == {"i8"}


@pytest.mark.parametrize(("kind", "most"), [("bf16", 2**-8), ("fp16", 2**-11), ("int8", 0.02), ("int4", 0.2)])
def test_a_weight_is_judged_as_it_is_stored(kind: str, most: float):
    weight = normal(3, 128)
    held = {suffix: tensor.data for suffix, tensor in openvino_weights.numbers(weight, kind).items()}
    rounded = openvino_weights.rounded(weight, kind)
    assert 0 < np.abs(rounded - weight).max() / np.abs(weight).max() < most
    if kind == "int8":
        assert np.array_equal(rounded, held[""] * held[SCALE])
    if kind == "bf16":
        assert np.array_equal(rounded.view(np.uint32) >> 16, held[""].view(np.uint16))


def test_sensitivity_judges_what_the_graphs_hold():
    """Activations too, where the engine makes bytes of them; and text not at all where it stays exact."""
    key, shape = "model.model.transformer.layers.0.ff.ff.2.weight", (1024, 4096)
    forms = {
        kind: exporter.form("step", Tier(name=name, type=kind), key, shape)
        for name, kind in (("exact", "fp32"), ("high", "bf16"), ("fast", "int8"), ("compact", "int4"))
    }
    assert {kind: form and form.group for kind, form in forms.items()} == {
        "fp32": None, "bf16": None, "int8": 128, "int4": 64
    }  # fmt: skip
    assert forms["fp32"] is None and forms["bf16"] is not None
    assert exporter.form("text", Tier(name="high", type="bf16"), key, shape) is None
    assert exporter.form("step", Tier(name="high", type="bf16", exact=("ff",)), key, shape) is None


def marked(path: Path, mark: str) -> set[str]:
    layers = ET.parse(path).getroot().iter("layer")
    return {
        str(layer.get("name")) for layer in layers for a in layer.iterfind("rt_info/attribute") if a.get("name") == mark
    }


def test_half_precision_leaves_the_stream_in_fp32(
    works: Mapping[str, Work], bundles: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """It shows: without the marks the error is larger."""
    made, wanted = works["tiny-small"], tier(tiers.HIGH)
    assert TARGET.convert("text", wanted, made) == ("text.onnx",)
    path = made.folder / TARGET.convert("step", wanted, made)[0]
    kept, small = (marked(path, mark["name"]) for mark in (exporter.FP32, exporter.SMALL))
    held = constants(path)
    assert made.config.dit is not None
    assert len([name for name in kept if "add" in name.lower()]) > 3 * made.config.dit.depth
    assert {f"{key}.fp32" for key, node in held.items() if node.get_element_type() == openvino.Type.bf16} == small
    torch_engine = TORCH.open(models.from_folder(bundles["tiny-small"]), ONE)
    expected = velocity(torch_engine, 1, 29)
    torch_engine.close()
    engine = opened(made, wanted)
    with_marks = likeness.cosine(expected, velocity(engine, 1, 29))
    engine.close()
    monkeypatch.setattr(exporter, "islands", lambda *_: frozenset())
    engine = opened(made, wanted)
    assert likeness.cosine(expected, velocity(engine, 1, 29)) < with_marks
    engine.close()
    monkeypatch.undo()
    TARGET.convert("step", wanted, made)


@pytest.mark.parametrize("half", ["avx512_bf16", "amx_bf16"])
def test_what_lies_around_products_of_bytes(half: str, bundles: Mapping[str, Path], tmp_path: Path):
    """Half precision where the processor has it, with the stream in fp32; the text encoder never; said in the file."""
    for instructions in (("avx512_vnni",), ("avx512_vnni", half)):
        made = work(bundles["tiny-small"], tmp_path / str(len(instructions)))
        wanted = Tier(name=tiers.FAST, type="int8", instructions=instructions)
        for graph in ("text", "step"):
            path = made.folder / TARGET.convert(graph, wanted, made)[0]
            expected = "bf16" if graph == "step" and half in instructions else "fp32"
            assert openvino_graph.around(openvino.Core().read_model(path)) == expected
            assert bool(marked(path, exporter.FP32["name"])) == (expected == "bf16")
            assert not marked(path, exporter.SMALL["name"])


def test_an_odd_number_of_columns_stays_whole_beside_half_precision(works: Mapping[str, Work]):
    """OpenVINO's product of a small weight and half precision forgets the last column."""
    key, shape = "model.model.transformer.layers.0.to_local_embed.0.weight", (1024, 257)
    for kind in ("int8", "int4"):
        alone = Tier(name=tiers.FAST, type=kind, instructions=("avx512_vnni",))
        beside = replace(alone, instructions=("avx512_vnni", "avx512_bf16"))
        assert exporter.form("prepare", alone, key, shape) is not None
        assert exporter.form("prepare", beside, key, shape) is None
        assert exporter.form("prepare", beside, key, (1024, 258)) is not None
    held = constants(works["tiny-small"].folder / TARGET.convert("prepare", tier(tiers.FAST), works["tiny-small"])[0])
    odd = [node for key, node in held.items() if "local" in key and len(node.get_output_shape(0)) == 2]
    if processor.bf16(processor.flags()):
        assert {node.get_output_shape(0)[1] % 2 for node in odd} == {0, 1}
        assert all(node.get_element_type().get_type_name() == "f32" for node in odd if node.get_output_shape(0)[1] % 2)


def test_products_of_bytes_are_what_the_graph_says(works: Mapping[str, Work]):
    made, wanted = works["tiny-small"], tier(tiers.FAST)
    if not processor.bf16(processor.flags()):
        pytest.skip("this processor has no bf16")
    engine = opened(made, wanted)
    hints = {g: engine._request(g).model.get_property("INFERENCE_PRECISION_HINT").get_type_name() for g in GRAPHS}
    engine.close()
    assert hints.pop("text") == "f32" and set(hints.values()) == {"bf16"}


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_layers_of_the_table_are_computed_in_fp32(stored: str, bundles: Mapping[str, Path], tmp_path: Path):
    """Those with a bias too, whose mark OpenVINO forgets, and whatever the checkpoint stores them in."""
    source = bundles["tiny-small"] if stored == "fp32" else models.HERE / "nano"
    plain = tier(tiers.HIGH)
    whole = {}
    for name, wanted in (("plain", plain), ("whole", replace(plain, exact=(*plain.exact, r"\.ff\.")))):
        made = work(source, tmp_path / name)
        files = {graph: TARGET.convert(graph, wanted, made)[0] for graph in ("prepare", "step")}
        engine = TARGET.open(made, wanted, files)
        ran = engine.profile("step", step_inputs(engine, 1, 13))
        engine.close()
        whole[name] = [one for one in ran if one.operation == "FullyConnected" and one.kernel.endswith("f32")]
    assert made.config.dit is not None
    assert len(whole["whole"]) - len(whole["plain"]) == 2 * made.config.dit.depth


def test_a_graph_that_stays_exact_is_the_exact_one(works: Mapping[str, Work]):
    made, wanted = works["tiny-small"], tier(tiers.FAST)
    everything = replace(wanted, exact=(r"^pretransform\.",))
    assert TARGET.convert("decode", everything, made) == ("decode.onnx",)


# Which tiers there are


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {}),
        (("avx512_vnni",), {"fast": ("int8", "avx512_vnni")}),
        (("avx2", "avx_vnni"), {"fast": ("int8", "avx_vnni"), "compact": ("int4", "avx_vnni")}),
        (
            ("avx512_bf16", "avx512_vnni"),
            {"high": ("bf16", "avx512_bf16"), "fast": ("int8", "avx512_vnni", "avx512_bf16")},
        ),
        (("amx_bf16", "avx512_bf16", "avx512_vnni"), {"compact": ("int4", "avx512_vnni", "amx_bf16")}),
        (("avx512_bf16", "amx_bf16", "avx512_fp16"), {"high": ("bf16", "amx_bf16")}),
        (("avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16"), {"high": ("fp16", "amx_fp16")}),
        (("avx512_bf16", "avx512_fp16"), {"high": ("fp16", "avx512_fp16")}),
    ],
)
def test_tiers_are_what_the_processor_can_do(
    flags: Sequence[str], expected: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))
    found = TARGET.tiers()
    assert tuple(found) == tiers.TIERS
    made = {name: (t.type, *t.instructions) for name, t in found.items() if isinstance(t, Tier)}
    assert made.pop("exact") == ("fp32",)
    assert expected.items() <= made.items()
    for name in set(tiers.TIERS) - set(made) - {"exact"}:
        assert str(found[name]).startswith("this processor has no")


# A whole bundle


@pytest.fixture
def exported(bundles: Mapping[str, Path], tmp_path: Path, capsys: Any) -> Path:
    """Made by the command out of an ONNX bundle, whose graphs it takes."""
    out = tmp_path / "bundle"
    args = ["--model", str(bundles["tiny-small"]), "--target", "openvino", "--precision", ",".join(MADE), "--out"]
    assert cli.main([*args, str(out), "--max-seconds", "5"]) == 0, capsys.readouterr().err
    assert "exact graphs are those of" in capsys.readouterr().err
    return out


def test_a_bundle_is_made_checked_and_opened(exported: Path):
    found = bundle.read(exported, deep=True)
    assert (found.target, found.backends, tuple(found.tiers)) == ("openvino", ("openvino",), MADE)
    assert "openvino" in found.built_with
    for name, made in found.tiers.items():
        assert tuple(made.graphs) == GRAPHS
        assert all(graph.cosine >= tiers.FLOORS[name] for graph in made.graphs.values())
    source = models.from_folder(exported)
    words = [("auto", "exact"), ("fp32", "exact")]
    if tiers.FAST in MADE:
        assert found.tiers["fast"].graphs["step"].files == ("step.int8.xml", "step.int8.bin")
        words += [("fast", "fast"), ("int8", "fast")]
    for word, expected in words:
        engine, choice = selection.open_engine(source, options=Options(precision=word, threads=1))
        assert choice.backend == "openvino" and engine.support.tier == expected
        engine.close()
    with pytest.raises(BackendUnavailable, match=r"no precision 'compact', only exact \(fp32\).*; run:"):
        selection.open_engine(source, "openvino", Options(precision="compact"))
    with pytest.raises(BackendUnavailable, match=r"was exported for openvino; run: sa3-export .* --target onnx"):
        selection.open_engine(source, "onnx")
