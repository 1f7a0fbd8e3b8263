"""Manifests: read back as written, and refused with a precise reason when anything is not as exported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import bundle, models
from sa3_engines.errors import BundleError
from sa3_engines.models import HERE

pytestmark = pytest.mark.usefixtures("cache")


def test_what_is_written_is_read(folder: Path):
    found = bundle.read(folder)
    assert found.source.revision == "0" * 40 and found.tiers["exact"].graphs["step"].sizes == ("batch 1, frames 13",)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "model_config.json",
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
def test_a_file_with_other_content_of_the_same_size(folder: Path, name: str):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=f"{name} was changed"):
        bundle.read(folder)


def test_what_was_checked_before_is_read_again_only_when_asked(folder: Path, cache: Path):
    path = folder / "model.safetensors"
    before = path.stat()
    path.write_bytes(b"WEIGHTS" * 500_000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # somebody hides it
    bundle.read(folder)
    with pytest.raises(BundleError, match=r"model.safetensors was changed"):
        bundle.read(folder, deep=True)
    (cache / "sa3-runtime" / "checked.json").unlink()
    with pytest.raises(BundleError, match=r"model.safetensors was changed"):
        bundle.read(folder)


def test_a_file_that_was_put_right_is_right_again(folder: Path):
    """With the time it had while it was wrong, as a copy that keeps times may have."""
    path, right = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    path.write_bytes(b"WEIGHTS" * 500_000)
    wrong = path.stat()
    with pytest.raises(BundleError, match=r"model.safetensors was changed"):
        bundle.read(folder)
    path.write_bytes(right)
    os.utime(path, ns=(wrong.st_atime_ns, wrong.st_mtime_ns))
    bundle.read(folder)
    bundle.read(folder, deep=True)


def test_a_file_whose_time_changed_is_read_again(folder: Path):
    (folder / "model.safetensors").write_bytes(b"WEIGHTS" * 500_000)
    with pytest.raises(BundleError, match=r"model.safetensors was changed"):
        bundle.read(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"x": 3}'])
def test_a_damaged_memory_of_checks_is_no_problem(folder: Path, cache: Path, content: str):
    (cache / "sa3-runtime" / "checked.json").write_text(content)
    bundle.read(folder)
    assert json.loads((cache / "sa3-runtime" / "checked.json").read_text())


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    bundle.read(folder)


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=3), "of schema 3, and this version reads 2; update sa3-runtime"),
        (lambda m: m.update(schema=1), "of schema 1, .* export the bundle again"),
        (lambda m: m.pop("schema"), "schema is missing"),
        (lambda m: m.pop("profile"), "profile is missing"),
        (lambda m: m["profile"].pop("max_seconds"), r"profile\.max_seconds is missing"),
        (lambda m: m.update(backends="onnx"), "backends is 'onnx', and should be of type list"),
        (lambda m: m.update(backends=[1]), "backends is not a list of texts"),
        (lambda m: m.update(tiers=[]), "tiers is .*type dict"),
        (lambda m: m.update(tiers={}), "tiers is empty"),
        (lambda m: m["tiers"].update(best=m["tiers"]["exact"]), "tiers names 'best'"),
        (lambda m: m["tiers"]["exact"]["graphs"]["step"].pop("cosine"), r"exact\.graphs\.step\.cosine is missing"),
        (lambda m: m["tiers"]["exact"]["graphs"].update(step=3), r"tiers\.exact\.graphs\.step is not an object"),
        (lambda m: m["tiers"]["exact"]["graphs"]["step"].update(file="x"), "opens 'x', which is not its own"),
        (
            lambda m: m["tiers"]["exact"]["graphs"]["step"].update(files=["x"]),
            "names 'x', which is not among the files",
        ),
        (lambda m: m["tiers"]["exact"].update(seconds={"step": "quick"}), r"seconds\.step is 'quick'"),
        (lambda m: m["files"]["step.onnx"].update(size="big"), r"files\.step\.onnx\.size is 'big'"),
        (lambda m: m["files"]["step.onnx"].update(size=True), r"files\.step\.onnx\.size is True"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "'../x', which is not inside"),
        (
            lambda m: m["files"].update({"a\0b": {"size": 1, "sha256": ""}}),
            "files names 'a.x00b', which is no file's name",
        ),
        (lambda m: m["files"].update({"a\ud800": {"size": 1, "sha256": ""}}), "which is no file's name"),
        (lambda m: m["files"].update({"": {"size": 1, "sha256": ""}}), "files names '', which is no file's name"),
        (lambda m: m["files"].update({"/etc/x": {"size": 1, "sha256": ""}}), "'/etc/x', which is not inside"),
        (lambda m: m["built_with"].update(torch=2), r"built_with\.torch is 2"),
        (lambda m: m["tiers"]["exact"].update(type="int3"), r"tiers\.exact\.type is 'int3', which is not one of fp32"),
        (lambda m: m["tiers"]["exact"].update(graphs={}), r"tiers\.exact\.graphs is empty"),
        (
            lambda m: m["tiers"]["exact"]["graphs"]["step"].update(cosine=math.nan),
            r"step\.cosine is nan, which is no finite",
        ),
        (
            lambda m: m["tiers"]["exact"]["graphs"]["step"].update(cosine=0.9999),
            r"is 0\.9999, and exact promises 0\.999999",
        ),
        (lambda m: m["tiers"]["fast"]["graphs"]["step"].update(cosine=1.5), r"fast\.graphs\.step\.cosine is 1\.5"),
        (lambda m: m["tiers"]["exact"]["graphs"]["step"].update(snr_db=10**400), r"step\.snr_db is inf"),
        (
            lambda m: m["tiers"]["exact"].update(type="bf16"),
            r"tiers\.exact\.type is 'bf16', and the exact tier is fp32",
        ),
        (lambda m: m["tiers"]["fast"].update(seconds={}), r"fast\.seconds\.step does not say how long"),
        (lambda m: m["tiers"]["fast"].update(seconds={"step": -1}), r"fast\.seconds\.step does not say how long"),
        (
            lambda m: m["tiers"]["fast"].update(
                graphs={"text": m["tiers"]["fast"]["graphs"]["step"]}, seconds={"text": 1}
            ),
            r"files does not name the text encoder's config\.json and model\.safetensors",
        ),
        (lambda m: m["profile"].update(max_seconds=math.inf), r"profile\.max_seconds is inf, which is no finite"),
        (lambda m: m["profile"].update(min_seconds=40), "profile is 40, 30, 120: it must go up"),
        (lambda m: m["files"].pop("model.safetensors"), r"files does not name model\.safetensors"),
    ],
)
def test_an_edited_manifest(folder: Path, change: Callable[[dict[str, Any]], object], message: str):
    with pytest.raises(BundleError, match=message):
        bundle.read(edited(folder, change))


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "[" * 100_000], ids=len)
def test_a_manifest_that_is_none(folder: Path, content: str):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.read(folder)


def test_nano_is_as_it_was_exported():
    found = bundle.read(HERE / "nano", deep=True)
    assert found.model == "nano"
    assert set(found.graphs) == {"text", "prepare", "step", "encode", "decode"}
    # The encoder finds panning by a steep product, which makes the last digits larger.
    floors = {"encode": 85}
    assert all(graph.snr_db > floors.get(name, 90) for name, graph in found.tiers["exact"].graphs.items())
    on_disk = {path.relative_to(HERE / "nano").as_posix() for path in (HERE / "nano").rglob("*") if path.is_file()}
    assert on_disk == {*found.files, "manifest.json"}
    assert sum(file.size for file in found.files.values()) < 12_000_000


def test_exports_have_a_place_of_their_own(cache: Path):
    assert models.bundle_folder("small-music", "onnx") == cache / "sa3-runtime/bundles/small-music-onnx"
    assert models.bundle_folder("small", "onnx") == models.bundle_folder("small-music", "onnx")
    assert models.bundle_folder("random:nano:3", "openvino").name == "random-nano-3-openvino"
    names = [models.bundle_folder(name, "onnx").name for name in ("owner/a/b", "owner/a-b", "owner-a-b")]
    assert len(set(names)) == 3 and all(name.startswith("owner-a-b") for name in names)
