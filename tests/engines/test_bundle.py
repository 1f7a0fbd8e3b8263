"""Manifests: read back as written, and refused with a precise reason when anything is not as exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import bundle
from sa3_engines.bundle import Bundle, Graph, Origin
from sa3_engines.errors import BundleError
from sa3_engines.models import HERE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle in miniature: its manifest is whole, its files are not what they say."""
    (tmp_path / "text").mkdir()
    (tmp_path / "step.onnx").write_bytes(b"graph" * 500_000)
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 500_000)
    (tmp_path / "text" / "config.json").write_text("{}")
    files = bundle.describe(tmp_path, ["step.onnx", "model.safetensors", "text/config.json"])
    graph = Graph(
        file="step.onnx",
        sha256=files["step.onnx"].sha256,
        parity_db=120.5,
        relative_error=4e-7,
        sizes=("batch 1, frames 13",),
    )
    made = Bundle(
        model="small-music",
        target="onnx",
        backends=("onnx",),
        precision="fp32",
        source=Origin(model="small-music", repo="a/b", revision="0" * 40, digest="d"),
        built_with={"torch": "2.13"},
        graphs={"step": graph},
        files=files,
        licence="free",
        recipe="r",
    )
    bundle.write(tmp_path, made)
    assert bundle.read(tmp_path, deep=True) == made
    return tmp_path


def test_what_is_written_is_read(folder: Path):
    found = bundle.read(folder)
    assert found.source.revision == "0" * 40 and found.graphs["step"].sizes == ("batch 1, frames 13",)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "step.onnx",
        "text",
    ]


def test_the_id_is_of_the_files(folder: Path):
    found = bundle.read(folder)
    assert replace(found, model="other").id == found.id
    assert len(found.id) == 12
    files = dict(found.files) | {"text/config.json": replace(found.files["text/config.json"], sha256="0" * 64)}
    assert replace(found, files=files).id != found.id


def test_no_manifest(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match="is unfinished: there are graphs and no manifest"):
        bundle.read(folder)
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.read(tmp_path_factory.mktemp("empty"))
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.read(folder / "nowhere")


def test_a_missing_file(folder: Path):
    (folder / "text" / "config.json").unlink()
    with pytest.raises(BundleError, match=r"text/config\.json is missing"):
        bundle.read(folder)


def test_a_file_cut_off(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.safetensors is 3499999 bytes long and should be 3500000"):
        bundle.read(folder)


@pytest.mark.parametrize("name", ["step.onnx", "text/config.json"])
def test_graphs_and_small_files_are_read_every_time(folder: Path, name: str):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=f"{name} was changed"):
        bundle.read(folder)


def test_weights_are_read_when_asked(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(b"WEIGHTS" * 500_000)
    bundle.read(folder)
    with pytest.raises(BundleError, match=r"model.safetensors was changed"):
        bundle.read(folder, deep=True)


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=2), "of schema 2, and this version reads 1; update sa3-runtime"),
        (lambda m: m.update(schema=0), "of schema 0, .* export the bundle again"),
        (lambda m: m.pop("schema"), "schema is missing"),
        (lambda m: m.pop("precision"), "precision is missing"),
        (lambda m: m.update(backends="onnx"), "backends is 'onnx', and should be of type list"),
        (lambda m: m.update(backends=[1]), "backends is not a list of texts"),
        (lambda m: m.update(graphs=[]), "graphs is .*type dict"),
        (lambda m: m["graphs"]["step"].pop("parity_db"), r"graphs\.step\.parity_db is missing"),
        (lambda m: m["graphs"].update(step=3), r"graphs\.step is not an object"),
        (lambda m: m["graphs"]["step"].update(sha256="0" * 64), "graphs.step and files disagree about step.onnx"),
        (lambda m: m["graphs"]["step"].update(file="gone.onnx"), "disagree about gone.onnx"),
        (lambda m: m["files"]["step.onnx"].update(size="big"), r"files\.step\.onnx\.size is 'big'"),
        (lambda m: m["files"]["step.onnx"].update(size=True), r"files\.step\.onnx\.size is True"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "'../x', which is not inside"),
        (lambda m: m["files"].update({"/etc/x": {"size": 1, "sha256": ""}}), "'/etc/x', which is not inside"),
        (lambda m: m["built_with"].update(torch=2), r"built_with\.torch is 2"),
    ],
)
def test_an_edited_manifest(folder: Path, change: Callable[[dict[str, Any]], object], message: str):
    with pytest.raises(BundleError, match=message):
        bundle.read(edited(folder, change))


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_manifest_that_is_none(folder: Path, content: str):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.read(folder)


def test_nano_is_as_it_was_exported():
    found = bundle.read(HERE / "nano", deep=True)
    assert found.model == "nano"
    assert set(found.graphs) == {"text", "prepare", "step", "encode", "decode"}
    assert all(graph.parity_db > 90 for graph in found.graphs.values())
    on_disk = {path.relative_to(HERE / "nano").as_posix() for path in (HERE / "nano").rglob("*") if path.is_file()}
    assert on_disk == {*found.files, "manifest.json"}
    assert sum(file.size for file in found.files.values()) < 10e6


def test_exports_have_a_place_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        bundle.default_folder("small-music", "onnx", "fp32") == tmp_path / "sa3-runtime/bundles/small-music-onnx-fp32"
    )
    assert bundle.default_folder("random:nano:3", "onnx", "fp32").name == "random-nano-3-onnx-fp32"
    assert bundle.default_folder("owner/repo", "onnx", "fp32").name == "owner-repo-onnx-fp32"
