"""What a dry run says: what would be made, how large, and for which machine. Nothing is made."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

from sa3_engines import models, processor, tiers
from sa3_engines.engine import GRAPHS
from sa3_engines.models import Source
from sa3_engines.openvino_weights import TYPES
from sa3_engines.quantise import Blocks
from sa3_engines.tensors import TensorFile
from sa3_exporters import build, cli, forecast, islands, placing
from sa3_exporters.build import Recipe
from sa3_exporters.targets import Work
from sa3_exporters.watch import Watch


def said(capsys: pytest.CaptureFixture[str], model: str, out: Path, *more: str) -> str:
    assert cli.main(["--model", model, "--target", "onnx", "--out", str(out), "--dry-run", *more]) == 0
    assert not out.exists()
    return capsys.readouterr().out


def test_a_dry_run_says_what_how_large_and_for_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = said(capsys, "nano", tmp_path / "out", "--precision", "exact,compact", "--max-seconds", "10")
    assert "precision  exact: fp32, weights as in the checkpoint" in lines
    assert "precision  compact: int8, about" in lines and "MB of weights" in lines  # no layer is large
    assert "durations  0 to 10 s" in lines and "cores" in lines


@pytest.mark.parametrize("name", ["tiny-small", "tiny-medium"])
@pytest.mark.parametrize("asked", ["text", "prepare,step", "encode", "decode", "text,prepare,step,encode,decode"])
def test_sizes_are_of_what_is_asked_for(
    bundles: Mapping[str, Path], golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, asked: str
):
    lines = said(capsys, str(golden / name), tmp_path / "out", "--precision", "fast", "--graphs", asked)
    found = re.search(r"fast: int8, about (\S+) MB", lines)
    assert found is not None
    made = sum((bundles[name] / f"{graph}.int8.safetensors").stat().st_size for graph in asked.split(","))
    assert float(found[1]) * 1e6 == pytest.approx(made, rel=0.05)


def work_of(source: Source, folder: Path) -> Work:
    """What a conversion needs where all exact graphs are known."""
    placing.place(source, folder)
    assert source.folder is not None and source.config.text is not None
    return Work(
        folder=folder,
        config=source.config,
        networks=None,
        weights=placing.weights(folder, source.config.text.folder),
        known={graph: source.folder / f"{graph}.onnx" for graph in GRAPHS},
    )


def stored(path: Path) -> set[str]:
    """The number types of the weights that are really in a tier's file."""
    if path.suffix == ".safetensors":
        return {f"int{Blocks.parse(text).bits}" for text in TensorFile(path).metadata.values()}
    constants = [layer.find("data") for layer in ET.parse(path).iter("layer") if layer.get("type") == "Const"]
    kinds = {TYPES.get(str(data.get("element_type"))) for data in constants if data is not None}
    return {kind for kind in kinds if kind is not None}


@pytest.fixture(params=["as it is", "four bits for all sizes"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as it is":
        monkeypatch.setattr(islands, "LARGE", 0)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", ["nano", "tiny-small", "tiny-medium"])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_size_and_type_are_those_of_what_is_converted(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str
):
    """Whatever this processor can run: conversion needs no instructions."""
    pytest.importorskip(target)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512_vnni", "avx512_bf16"}))
    source = models.locate(name if name == "nano" else str(bundles[name]))
    assert source.folder is not None and source.config.text is not None
    words = ("high", "fast", "compact") if target == "openvino" else ("fast", "compact")
    recipe = Recipe(source=source, out=tmp_path / "out", target=target, precision=words)
    made, wanted = build.plan(recipe, Watch())
    work = work_of(source, tmp_path)
    for tier in wanted:
        converted = [made.convert(graph, tier, work) for graph in recipe.graphs]
        files = [tmp_path / file for files in converted for file in files]
        size = sum(path.stat().st_size for path in files if path.suffix in (".safetensors", ".bin"))
        assert forecast._size(recipe, tier) == pytest.approx(size, rel=0.03), tier.name
        types = set[str]().union(*(stored(path) for path in files if path.suffix in (".safetensors", ".xml")))
        assert tier.type in types, tier.name
        assert all(tiers.BITS[kind] >= tiers.BITS[tier.type] for kind in types), tier.name


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_two_tiers_of_one_type_with_other_islands_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
):
    pytest.importorskip(target)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512_vnni"}))
    table = tmp_path / "islands.json"
    table.write_text(json.dumps({"tiers": {"compact": {"exact": [*islands.patterns(target, "fast"), "self_attn"]}}}))
    source = models.locate("nano")
    recipe = Recipe(source=source, out=tmp_path / "out", target=target, precision=("fast", "compact"), islands=table)
    made, wanted = build.plan(recipe, Watch())
    work = work_of(source, tmp_path)
    names = [[made.convert(graph, tier, work) for graph in ("prepare", "step")] for tier in wanted]
    first, second = (".onnx", ".safetensors") if target == "onnx" else (".xml", ".bin")
    assert names[0] == [(f"{graph}.int8{first}", f"{graph}.int8{second}") for graph in ("prepare", "step")]
    assert names[1] == [names[0][0], (f"step.compact{first}", f"step.compact{second}")]
    fast, compact = ((tmp_path / files[1][1]).stat().st_size for files in names)
    # OpenVINO's files hold in full what stays; ONNX's leave it to the checkpoint's.
    assert compact < fast if target == "onnx" else compact > fast
