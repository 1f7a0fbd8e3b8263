"""Bundles in use: found by a model's name, held to their durations, run with little memory, and for a long time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sa3_engines import choosing, models, remembered
from sa3_engines.errors import BackendUnavailable, BundleError, InvalidRequest, ModelNotFound
from sa3_engines.models import HERE
from sa3_exporters.cli import main as export
from sa3_runtime import Pipeline, Request
from sa3_runtime.cli import main
from sa3_runtime.command import doctor

SHORT = Request(prompt="a bell", seconds=0.5, steps=2, seed=3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "sa3-runtime" / "bundles"


def put(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    """nano's bundle under another name."""
    shutil.copytree(HERE / "nano", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_name_finds_what_was_exported_from_it(cache: Path):
    folder = put(cache / "small-music-onnx", lambda m: m["source"].update(repo="a/b", revision="f" * 40))
    for name in ("small-music", "small"):
        source = models.locate(name)
        assert (source.name, source.folder, source.bundles) == ("small-music", folder, (folder,))
        assert (source.repo, source.revision) == ("a/b", "f" * 40)
    with Pipeline.load("small-music") as pipeline:
        assert pipeline.engine.support.backend == "onnx"
        assert np.isfinite(pipeline.generate(SHORT).audio).all()


def test_another_revision_is_not_what_was_exported(cache: Path):
    put(models.bundle_folder("owner/repo", "onnx"), lambda m: m["source"].update(repo="owner/repo", revision="f" * 40))
    assert models.locate("owner/repo", revision="f" * 40).revision == "f" * 40
    with pytest.raises(ModelNotFound):
        models.locate("owner/repo", revision="main")
    with pytest.raises(ModelNotFound):
        models.locate("owner/repo", bundles=False)


def test_a_checkpoints_own_bundles_come_with_it(cache: Path, tmp_path: Path):
    plain = tmp_path / "mine"
    shutil.copytree(HERE / "nano", plain, ignore=shutil.ignore_patterns("manifest.json", "*.onnx"))
    assert models.locate(str(plain)).bundles == ()
    folder = put(models.bundle_folder(str(plain), "onnx"))
    source = models.locate(str(plain))
    assert (source.folder, source.bundles) == (plain, (folder,))
    assert models.locate("random:nano").bundles == ()
    for backend in ("auto", "onnx"):
        with Pipeline.load(str(plain), backend=backend) as pipeline:
            assert pipeline.engine.support.backend == "onnx"


def test_what_was_exported_here_comes_before_what_is_in_the_package(cache: Path):
    def other_tier(manifest: dict[str, Any]) -> None:
        manifest["tiers"] = {"fast": {**manifest["tiers"]["exact"], "type": "int8"}}

    folder = put(cache / "nano-onnx", other_tier)
    source = models.locate("nano")
    assert source.bundles == (folder, HERE / "nano")
    assert choosing.of(source, "onnx", "fast") == choosing.of(source, "onnx", "int4") == folder
    assert choosing.of(source, "onnx", "exact") == choosing.of(source, "onnx") == HERE / "nano"


def test_a_bundle_of_some_graphs_hides_none_of_all(cache: Path):
    def decode_alone(manifest: dict[str, Any]) -> None:
        graphs = manifest["tiers"]["exact"]["graphs"]
        manifest["tiers"]["exact"]["graphs"] = {"decode": graphs["decode"]}

    put(cache / "nano-onnx", decode_alone)
    with Pipeline.load("nano") as pipeline:
        assert pipeline.engine.support.backend == "onnx"
        assert np.isfinite(pipeline.generate(SHORT).audio).all()


def test_a_cache_that_takes_no_files_is_no_reason_to_read_weights_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = tmp_path / "mine"
    shutil.copytree(HERE / "nano", plain, ignore=shutil.ignore_patterns("manifest.json", "*.onnx"))
    put(models.bundle_folder(str(plain), "onnx"))
    (cache.parent / "checked.json").mkdir()
    read: list[Path] = []
    before = remembered.sha256
    monkeypatch.setattr(remembered, "sha256", lambda path: read.append(path) or before(path))
    Pipeline.load(str(plain)).close()
    assert read.count(plain / "model.safetensors") == 1


def test_a_checkpoint_that_was_trained_further_is_not_what_was_exported(cache: Path, tmp_path: Path):
    plain = tmp_path / "mine"
    shutil.copytree(HERE / "nano", plain, ignore=shutil.ignore_patterns("manifest.json", "*.onnx"))
    folder = put(models.bundle_folder(str(plain), "onnx"))
    weights = plain / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    why = rf"{folder} was exported from another {weights}; run: sa3-export --model {plain} --target onnx"
    with pytest.raises(BackendUnavailable, match=why):
        Pipeline.load(str(plain), backend="onnx")
    with Pipeline.load(str(plain)) as pipeline:
        assert pipeline.choice is not None and pipeline.choice.backend == "torch"
        assert any("was exported from another" in reason for reason in pipeline.choice.refused)


def test_the_usual_duration_is_one_that_the_bundle_takes(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = put(cache / "short", lambda m: m["profile"].update(min_seconds=2, opt_seconds=2, max_seconds=3))
    out = tmp_path / "clip.wav"
    assert main(["generate", "-p", "a bell", "--model", str(folder), "--steps", "1", "-o", str(out)]) == 0
    assert soundfile.info(out).duration == 3.0
    assert doctor.try_auto(str(folder)).problem is None  # which asks for a second where it may


def test_a_broken_bundle_is_named_and_not_passed_over(cache: Path):
    folder = put(cache / "small-music-onnx", lambda m: m.pop("tiers"))
    with pytest.raises(BundleError, match="tiers is missing"):
        Pipeline.load("small-music", backend="onnx")
    shutil.rmtree(folder)
    put(folder)
    (folder / "decode.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"decode\.onnx is 0 bytes long"):
        Pipeline.load("small-music")


def test_a_bundle_for_another_processor(cache: Path):
    folder = put(cache / "small-music-onnx", lambda m: m["tiers"]["exact"].update(instructions=["abacus"]))
    with pytest.raises(BackendUnavailable, match=r"exact .* needs abacus, which this machine's processor lacks"):
        Pipeline.load(str(folder), backend="onnx")


def test_a_bundle_that_is_passed_over_is_told_of(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = put(cache / "other", lambda m: m["tiers"]["exact"].update(instructions=["abacus"]))
    flags = ["--model", str(folder), "--steps", "1", "--duration", "0.5", "-o", str(tmp_path / "clip.wav")]
    assert main(["generate", "-p", "a bell", *flags]) == 0
    said = capsys.readouterr()
    assert "torch on cpu" in said.out
    assert re.search("sa3: a bundle is passed over: onnx: precision exact .* needs abacus", said.err)
    assert "openvino" not in said.err  # for which there is none


def test_a_bundle_of_some_graphs(cache: Path, tmp_path: Path):
    """It comes last, and says what it lacks."""

    def decode_alone(manifest: dict[str, Any]) -> None:
        graphs = manifest["tiers"]["exact"]["graphs"]
        manifest["tiers"]["exact"]["graphs"] = {"decode": graphs["decode"]}

    folder = put(cache / "some", decode_alone)
    with Pipeline.load(str(folder)) as pipeline:
        assert pipeline.engine.support.backend == "torch"
    with Pipeline.load(str(folder), backend="onnx") as pipeline:
        assert pipeline.decode(np.ones((1, 128, 4), np.float32)).shape[0] == 1
        with pytest.raises(BackendUnavailable, match="onnx bundle of some has no graph encode; export it with all"):
            pipeline.encode((44100, np.ones(44100, np.float32)))
        with pytest.raises(BackendUnavailable, match="has no graph text and prepare and step"):
            pipeline.generate(SHORT)


def test_files_that_may_not_be_read(cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder = put(cache / "shut")
    before = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "step.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=r"step\.onnx cannot be read: Permission denied"):
        Pipeline.load(str(folder))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 10**11])
def test_threads_that_cannot_be(threads: Any):
    with pytest.raises(InvalidRequest, match=r"threads .*; it must be a whole number from 1 to \d+ on this machine"):
        Pipeline.load("nano", threads=threads)


def test_durations_a_bundle_was_not_exported_for(cache: Path):
    folder = put(cache / "short", lambda m: m["profile"].update(min_seconds=1, opt_seconds=2, max_seconds=3))
    with Pipeline.load(str(folder)) as pipeline:
        for seconds in (0.5, 4.0):
            with pytest.raises(InvalidRequest, match=rf"{seconds:g} s were asked, .* exported for 1 to 3 s; .*--max-s"):
                pipeline.generate(Request(prompt="a", seconds=seconds, steps=1))
        pipeline.generate(Request(prompt="a", seconds=1.0, steps=1, seed=1))


def test_little_memory_gives_the_same_sound():
    """What is left out are copies and caches; products may be summed in another order."""
    with Pipeline.load("nano", threads=1) as pipeline:
        expected = pipeline.generate(SHORT).audio
    with Pipeline.load("nano", threads=1, memory="low") as pipeline:
        np.testing.assert_allclose(pipeline.generate(SHORT).audio, expected, rtol=0, atol=1e-5)
    with pytest.raises(InvalidRequest, match="memory 'none'; choose from normal, low"):
        Pipeline.load("nano", memory="none")


FLAT = """
import sys
from pathlib import Path
import numpy as np
from sa3_runtime import Pipeline, Request

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

draw, seen = np.random.default_rng(5), []
with Pipeline.load(sys.argv[1], backend=sys.argv[2]) as pipeline:
    pipeline.generate(Request(prompt="a bell", seconds=3.0, steps=1, seed=1))
    for index in range(62):
        seconds = float(draw.uniform(0.2, 3.0))
        pipeline.generate(Request(prompt="a bell", seconds=seconds, steps=1, seed=index))
        seen.append(resident())
print(max(seen[:12]), max(seen[-10:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_memory_stays_flat(backend: str, tmp_path: Path):
    """Over 50 clips of random lengths, after some to warm up; in a process that holds nothing else, which would hide
    what is lost.
    """
    model = "nano"
    if backend == "openvino":
        model = str(tmp_path / "nano")
        assert export(["--model", "nano", "--target", "openvino", "--precision", "exact", "--out", model]) == 0
    done = subprocess.run([sys.executable, "-c", FLAT, model, backend], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    warm, last = map(int, done.stdout.split())
    assert last <= 1.05 * warm


def test_a_bundle_of_one_graph_is_taken_for_what_needs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def decoder_alone(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"].values():
            for part in ("graphs", "seconds"):
                tier[part] = {name: kept for name, kept in tier[part].items() if name == "decode"}

    folder = str(put(tmp_path / "decoder", decoder_alone))
    np.save(tmp_path / "in.npy", np.zeros((128, 8), np.float32))
    assert main(["decode", str(tmp_path / "in.npy"), "--model", folder, "-o", str(tmp_path / "out.wav")]) == 0
    assert "onnx on cpu" in capsys.readouterr().out
    # What needs the others runs elsewhere, and says why.
    argv = ["generate", "-p", "a bell", "--duration", "0.5", "--steps", "1", "--model", folder]
    assert main([*argv, "-o", str(tmp_path / "x.wav")]) == 0
    said = capsys.readouterr()
    assert "torch on cpu" in said.out
    assert "a bundle is passed over: onnx" in said.err
