"""Export: what a bundle holds, that its sizes are dynamic, and that nothing false or half is ever published."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors import safe_open

from sa3_engines import adapters, bundle, config, graphs, likeness, models, tables
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.engine import GRAPHS, Engine, Options
from sa3_engines.errors import OutputError, ParityError
from sa3_engines.onnx import BACKEND
from sa3_engines.tensors import TensorFile
from sa3_engines.tiers import FLOORS
from sa3_exporters import build, cli, placing, tracing
from sa3_exporters import onnx as exporter
from sa3_exporters.onnx import OnnxTarget
from sa3_exporters.targets import Tier, Work
from stable_audio_3.engine import BACKEND as TORCH

TINY = ("tiny-small", "tiny-medium")
ONE = Options(threads=1)


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest, bundles: Mapping[str, Path]) -> Iterator[tuple[Engine, Engine]]:
    """The torch engine and the ONNX engine over the same bundle."""
    source = models.from_folder(bundles[request.param])
    reference, exported = TORCH.open(source, ONE), BACKEND.open(source, ONE)
    yield reference, exported
    reference.close()
    exported.close()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def check(pair: tuple[Engine, Engine], graph: str, inputs: dict[str, Any]) -> None:
    expected, got = (engine.run(graph, inputs) for engine in pair)
    for name, value in expected.items():
        assert likeness.relative_error(value, got[name]) < 1e-5, (graph, name)


# Sizes


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 23), (3, 2), (3, 9)])
def test_text_takes_any_size(pair: tuple[Engine, Engine], batch: int, tokens: int):
    text = pair[0].config.text
    assert text is not None
    ids = np.arange(batch * tokens).reshape(batch, tokens) * 7 % text.vocab_size
    mask = np.ones_like(ids)
    mask[-1, tokens // 2 :] = 0  # with one token: nothing at all
    check(pair, "text", graphs.text(text, ids, mask))


@pytest.mark.parametrize("inpaint", [False, True])
@pytest.mark.parametrize(("batch", "frames", "context"), [(1, 1, 1), (1, 29, 25), (3, 1, 2), (3, 17, 5)])
def test_steps_take_any_size(pair: tuple[Engine, Engine], batch: int, frames: int, context: int, inpaint: bool):
    dit = pair[0].config.dit
    assert dit is not None
    local = normal(batch, dit.local_width, frames) if inpaint else None
    cond = normal(batch, context, dit.context_width), normal(batch, dit.global_width)
    inputs = graphs.prepare(pair[0].config, frames, *cond, local)
    levels = np.linspace(0.01, 1, batch, dtype=np.float32)
    step = {"x": normal(batch, dit.channels, frames), "timestep": tables.timestep_features(levels, dit)}
    expected, got = (engine.run("step", engine.run("prepare", inputs) | step)["velocity"] for engine in pair)
    assert likeness.relative_error(expected, got) < 1e-5


@pytest.mark.parametrize(("batch", "chunks"), [(1, 1), (1, 7), (3, 1), (3, 2)])
def test_the_autoencoder_takes_any_size(pair: tuple[Engine, Engine], batch: int, chunks: int):
    c = pair[0].config
    latents = chunks * c.autoencoder.encoder.latents_multiple
    check(pair, "encode", graphs.encode(c, normal(batch, c.autoencoder.channels, latents * c.ratio)))
    check(pair, "decode", graphs.decode(c, normal(batch, c.autoencoder.latent_channels, 2 * chunks - 1)))


def test_every_changing_size_has_a_name(bundles: Mapping[str, Path]):
    for folder in bundles.values():
        for graph in GRAPHS:
            for value in onnx.load(folder / f"{graph}.onnx", load_external_data=False).graph.input:
                dims = value.type.tensor_type.shape.dim
                assert any(dim.dim_param for dim in dims) or value.name.startswith("rope_")


@pytest.mark.parametrize("name", TINY)
def test_nothing_is_computed_twice_or_for_nothing(bundles: Mapping[str, Path], name: str):
    for graph in GRAPHS:
        nodes = list(ir.load(bundles[name] / f"{graph}.onnx").graph)
        said = Counter((node.op_type, tuple(node.inputs), str(node.attributes)) for node in nodes)
        assert max(said.values()) == 1, said.most_common(1)
        assert all(out.uses() or out.is_graph_output() for node in nodes for out in node.outputs[:1])
        for node in nodes:
            if node.op_type == "Slice":
                start, end = (ir.convenience.get_const_tensor(value) for value in node.inputs[1:3] if value)
                whole = start and end and not start.numpy().any() and (end.numpy() == np.iinfo(np.int64).max).all()
                assert not whole, node.name


# What is in a bundle


@pytest.mark.parametrize("name", TINY)
def test_weights_stay_in_the_checkpoints_files(bundles: Mapping[str, Path], name: str):
    folder = bundles[name]
    used: set[str] = set()
    for graph in GRAPHS:
        model = onnx.load(folder / f"{graph}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if not place:
                assert np.prod(tensor.dims) < 1000, tensor.name
                continue
            stored = TensorFile(folder / place["location"]).tensors[tensor.name]
            assert (int(place["offset"]), int(place["length"])) == (stored.offset, stored.size)
            assert tuple(tensor.dims) == stored.shape
            used.add(tensor.name)
    everything = TensorFile(folder / "model.safetensors").tensors
    host = ("inv_freq", "noise_scaling_factor")  # made on the host, or empty
    unused = {key for key in everything if not key.endswith(host) and "conditioners." not in key} - used
    assert not unused
    assert "model.encoder.embed_tokens.weight" not in used


@pytest.mark.parametrize("name", TINY)
def test_the_manifest_says_what_was_compared(bundles: Mapping[str, Path], name: str):
    found = bundle.read(bundles[name], deep=True)
    assert (found.model, found.target, found.backends) == (name, "onnx", ("onnx",))
    assert {tier: made.type for tier, made in found.tiers.items()} == {"exact": "fp32", "fast": "int8"}
    assert found.graphs == GRAPHS
    for graph in GRAPHS:
        exact, fast = (found.tiers[tier].graphs[graph] for tier in ("exact", "fast"))
        assert exact.snr_db > 100 and exact.relative_error < 1e-5
        assert 1 > fast.cosine >= FLOORS["fast"] and fast.snr_db < exact.snr_db
        assert any("batch 2" in size for size in exact.sizes) and exact.sizes == fast.sizes
        assert all(tier.seconds[graph] > 0 for tier in found.tiers.values())
    assert found.tiers["exact"].graphs["decode"].more["round_trip_snr_db"] > 100
    assert {"torch", "onnx", "onnxruntime", "onnxscript", "sa3-runtime"} <= set(found.built_with)
    assert "t5gemma-b-b-ul2/model.safetensors" in found.files


@pytest.mark.parametrize("name", TINY)
def test_adapters_match_the_reference(bundles: Mapping[str, Path], golden: Path, name: str):
    """The golden adapter cases, through the sessions that are made anew for them."""
    engine = BACKEND.open(models.from_folder(bundles[name]), ONE)
    assert engine.config.dit is not None
    torch_engine = TORCH.open(models.from_folder(golden / name), ONE)
    assert engine.adaptable() == torch_engine.adaptable()
    torch_engine.close()
    for path in sorted((golden / name / "cases").glob("lora_*.safetensors")):
        with safe_open(path, "np") as file:
            params = json.loads(file.metadata()["params"])
            tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(("in.", "out.v"))}
        if params.get("lora_configs"):
            continue  # intervals are the sampler's business
        loaded = [adapters.load(golden / name / f) for f in params.get("files", [params.get("file")])]
        strengths = {"out.v0": 1.0} | {f"out.v_strength{s:g}": s for s in (0.5, 1.0, 1.7)} | {"out.v_strength0.0": 0.0}
        frames = tensors["in.x"].shape[2]
        cond = (tensors[f"in.{key}"] for key in ("cross_attn_cond", "global_cond", "local_add_cond"))
        inputs = graphs.prepare(engine.config, frames, *cond)
        levels = tensors["in.t" if "in.t" in tensors else "in.t0"]
        step = {"x": tensors["in.x"], "timestep": tables.timestep_features(levels, engine.config.dit)}
        for key, strength in strengths.items():
            if key in tensors:
                engine.set_adapters([ActiveAdapter(adapter=a, strength=strength) for a in loaded])
                got = engine.run("step", engine.run("prepare", inputs) | step)["velocity"]
                assert likeness.relative_error(tensors[key], got) < 1e-4, (path.stem, key)
    engine.close()


# Nothing false or half is published. Conversions are copies of those made above.


@pytest.fixture
def converted(bundles: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiny-small's bundle; from now on converting a graph copies it from there."""

    made = bundle.read(bundles["tiny-small"])

    def convert(_: object, graph: str, tier: Tier, work: Work) -> tuple[str, ...]:
        names = made.tiers[tier.name].graphs[graph].files
        for name in names:
            shutil.copy(bundles["tiny-small"] / name, work.folder)
        return names

    monkeypatch.setattr(exporter.OnnxTarget, "convert", convert)
    return bundles["tiny-small"]


def export(golden: Path, out: Path, *more: str) -> int:
    command = ["--model", str(golden / "tiny-small"), "--target", "onnx", "--precision", "exact,fast"]
    return cli.main([*command, "--out", str(out), *more])


def spoil(path: Path, how: str) -> None:
    model = onnx.load(path, load_external_data=False)
    if how == "nan":
        for node in model.graph.node:
            if node.op_type == "Softmax":
                nan = onnx.helper.make_tensor("nan", onnx.TensorProto.FLOAT, [], [float("nan")])
                model.graph.initializer.append(nan)
                model.graph.node.append(onnx.helper.make_node("Mul", [node.output[0], "nan"], ["spoiled"]))
                for user in model.graph.node[:-1]:
                    user.input[:] = ["spoiled" if name == node.output[0] else name for name in user.input]
                # A node has to come after what it takes.
                spoiled = model.graph.node.pop()
                model.graph.node.insert(list(model.graph.node).index(node) + 1, spoiled)
                break
    else:
        first, second, *_ = [t for t in model.graph.initializer if t.name.endswith("self_attn.to_out.weight")]
        kept = first.external_data[:]
        del first.external_data[:]
        first.external_data.extend(second.external_data[:])
        del second.external_data[:]
        second.external_data.extend(kept)
    onnx.save(model, path)


@pytest.mark.parametrize("how", ["nan", "swapped weights"])
def test_a_graph_that_differs_is_not_published(
    golden: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, capsys: Any
):
    copy = exporter.OnnxTarget.convert

    def convert(target: OnnxTarget, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        names = copy(target, graph, tier, work)
        if graph == "decode":
            spoil(work.folder / names[0], how)
        return names

    monkeypatch.setattr(exporter.OnnxTarget, "convert", convert)
    assert export(golden, tmp_path / "out") == ParityError.exit_code
    assert "decode at batch 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", ["nothing", "a bundle"])
def test_an_interrupt_leaves_what_was_there(
    golden: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, capsys: Any
):
    out = tmp_path / "out"
    if before == "a bundle":
        assert export(golden, out) == 0
    listed = sorted(path.name for path in out.rglob("*"))

    def convert(target: OnnxTarget, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        if graph == "encode":
            raise KeyboardInterrupt
        return copy(target, graph, tier, work)

    copy = exporter.OnnxTarget.convert
    monkeypatch.setattr(exporter.OnnxTarget, "convert", convert)
    assert export(golden, out, "--force") == 130
    assert "nothing was published" in capsys.readouterr().err
    assert sorted(path.name for path in out.rglob("*")) == listed
    assert list(tmp_path.iterdir()) == ([out] if listed else [])
    if listed:
        bundle.read(out, deep=True)


def test_exporting_again_needs_a_reason(golden: Path, converted: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "out"
    assert export(golden, out) == 0
    made = (out / "manifest.json").stat().st_mtime_ns
    assert export(golden, out) == 0
    assert "already current" in capsys.readouterr().out
    assert (out / "manifest.json").stat().st_mtime_ns == made
    (out / "step.onnx").write_bytes(b"x")
    assert export(golden, out) == 0
    assert export(golden, out, "--force") == 0
    assert bundle.read(out, deep=True).id == bundle.read(converted).id


def test_a_bundles_own_graphs_need_no_tracing(
    golden: Path, bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def trace(_: object) -> None:
        raise ZeroDivisionError("traced")

    monkeypatch.setattr(tracing, "trace", trace)
    folder, out = tmp_path / "a bundle", tmp_path / "out"
    shutil.copytree(bundles["tiny-small"], folder)
    command = ["--model", str(folder), "--target", "onnx", "--precision", "exact", "--out", str(out)]
    assert cli.main(command) == 0
    for graph in GRAPHS:
        assert (out / f"{graph}.onnx").read_bytes() == (folder / f"{graph}.onnx").read_bytes()
    with pytest.raises(ZeroDivisionError):
        cli.main([*command, "--force"])
    more = ["--model", str(golden / "tiny-small"), "--target", "onnx", "--precision", "exact,fast", "--out", str(out)]
    assert cli.main(more) == 0  # out's own
    shutil.rmtree(out)
    manifest = json.loads((folder / "manifest.json").read_text())
    for changed in (
        manifest | {"traced": "by other code"},
        manifest | {"source": manifest["source"] | {"digest": "of other weights"}},
    ):
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "step.onnx").write_bytes(b"no longer what the manifest says")
    with pytest.raises(ZeroDivisionError):
        cli.main(command)


def test_in_place_adds_graphs_and_changes_nothing_else(golden: Path, converted: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", folder, ignore=shutil.ignore_patterns("cases", "loras"))
    (folder / "notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    command = ["--model", str(folder), "--target", "onnx", "--precision", "exact,fast", "--out", str(folder)]
    assert cli.main(command) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert {path.name for path in set(after) - set(before)} == {
        "manifest.json",
        *(f"{g}.onnx" for g in GRAPHS),
        *(f"{g}.int8.{kind}" for g in GRAPHS for kind in ("onnx", "safetensors")),
    }
    assert "notes.txt" not in bundle.read(folder).files
    assert BACKEND.why_not_open(models.from_folder(folder)) is None


def test_a_folder_that_is_no_bundle_is_left_alone(golden: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("you")
    assert export(golden, tmp_path / "letters", "--force") == OutputError.exit_code
    assert "left alone" in capsys.readouterr().err
    assert (tmp_path / "letters" / "dear.txt").read_text() == "you"


def test_a_dry_run_only_talks(golden: Path, tmp_path: Path, capsys: Any):
    assert export(golden, tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "text, prepare, step, encode, decode" in said and "model.safetensors" in said and str(tmp_path) in said
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_sentence(tmp_path: Path, capsys: Any):
    assert cli.main(["--model", "smal-music", "--target", "onnx", "--out", str(tmp_path / "x")]) == 3
    said = capsys.readouterr().err
    assert said.startswith("sa3-export: no model 'smal-music'") and said.count("\n") == 1


# Placing weights


def test_random_weights_become_a_checkpoint(tmp_path: Path):
    source = models.locate("random:nano:5")
    placing.place(source, tmp_path)
    placed = models.from_folder(tmp_path)
    assert placed.config.raw == {**source.config.raw, models.RANDOM: 5}
    assert replace(placed.config, raw={}) == replace(source.config, raw={})
    ids = np.arange(1, 8)[None]
    assert source.config.text is not None
    inputs = graphs.text(source.config.text, ids, np.ones_like(ids))
    expected, got = (TORCH.open(s, ONE).run("text", inputs)["hidden"] for s in (source, placed))
    assert np.array_equal(expected, got)


def test_what_is_placed_is_nobody_elses(golden: Path, tmp_path: Path):
    """Who writes into a bundle's configuration writes into no checkpoint."""
    source = models.from_folder(golden / "tiny-small")
    placing.place(source, tmp_path)
    assert {path.stat().st_nlink for path in tmp_path.rglob("*") if path.is_file()} == {1}
    assert placing.shared(source, tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "link"), reason="needs hard links")
def test_large_weights_are_shared_and_said_to_be(
    golden: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(placing, "LARGE", 1_000_000)
    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(golden / "tiny-small", folder, ignore=shutil.ignore_patterns("cases", "loras"))
    command = ["--model", str(folder), "--target", "onnx", "--precision", "exact,fast", "--out", str(out)]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model\.safetensors, 3,313,612 bytes, shared with the model", said)
    assert re.search(r"model_config\.json, [\d,]+ bytes, copied\n", said)
    assert cli.main(command) == 0
    assert f"\nmodel.safetensors: shared with {folder}, not copied" in capsys.readouterr().out
    assert (out / "model.safetensors").samefile(folder / "model.safetensors")
    assert not (out / "model_config.json").samefile(folder / "model_config.json")


def test_an_autoencoder_out_of_a_full_checkpoint_says_so(golden: Path, tmp_path: Path):
    full = models.from_folder(golden / "tiny-small")
    alone = config.ModelConfig(autoencoder=full.config.autoencoder, raw=full.config.raw)
    source = models.Source(name="part", config=alone, folder=full.folder)
    placing.place(source, tmp_path)
    placed = models.from_folder(tmp_path)
    assert placed.config.dit is None and placed.text_folder is None
    assert placed.config.autoencoder.decoder == full.config.autoencoder.decoder
    assert build.Recipe(source=placed, out=tmp_path / "out").graphs == ("encode", "decode")
    latents = graphs.decode(full.config, normal(1, full.config.autoencoder.latent_channels, 2))
    expected, got = (TORCH.open(s, ONE).run("decode", latents)["audio"] for s in (full, placed))
    assert np.array_equal(expected, got)


def test_a_bundle_of_random_weights_has_a_stand_in_tokenizer(golden: Path, tmp_path: Path):
    """It has none of its own, and must still make sound."""
    from sa3_runtime.tokens import StandInTokenizer, tokenizer_for

    plain = models.from_folder(golden / "tiny-small")
    raw = json.loads((golden / "tiny-small" / "model_config.json").read_text())
    assert tokenizer_for(plain) is None
    (tmp_path / "model_config.json").write_text(json.dumps(raw | {models.RANDOM: 3}))
    (tmp_path / "t5gemma-b-b-ul2").symlink_to(golden / "tiny-small" / "t5gemma-b-b-ul2")
    source = models.from_folder(tmp_path)
    assert source.random_weights and isinstance(tokenizer_for(source), StandInTokenizer)
