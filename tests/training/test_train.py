"""Every stage of the training on next to nothing: it runs, it continues exactly, and what it leaves can be used."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sa3_engines.models import CONFIG
from sa3_runtime import Pipeline, Request
from sa3_training import (
    architecture,
    autoencoding,
    clips,
    components,
    distilling,
    flow,
    latents,
    recipe,
    report,
    running,
    tokens,
)
from sa3_training.__main__ import main
from sa3_training.denoising import Denoiser
from sa3_training.recipe import Plan
from sa3_training.running import Stage

PATCHES = 300  # loud enough ones, both ways round, must be more than the components


def plan(folder: Path, device: str = "cpu") -> Plan:
    return Plan(
        folder=folder,
        clip_shards=1,
        latent_shards=1,
        workers=1,
        autoencoder=autoencoding.Options(steps=2, batch=2, device=device),
        base=flow.Options(steps=2, batch=2, device=device),
        distil=distilling.Options(steps=2, batch=2, path=2, device=device),
        quiet=True,
    )


def train(made: Plan) -> Plan:
    """All stages once, on a handful of examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "SHARD", 40)
        patch.setattr(latents, "SHARD", 12)
        patch.setattr(components, "PATCHES", PATCHES)
        patch.setattr(tokens, "CAPTIONS", 1500)
        recipe.distil(made)
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return train(plan(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture(scope="module")
def checkpoint(trained: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "nano"
    recipe.export(trained, folder, graphs=False)
    return folder


def stage(name: str, made: Plan, folder: Path) -> Stage:
    model = architecture.parsed()
    networks = architecture.build(model, 1)
    if name == "autoencoder":
        crops = clips.Crops(made.folder, made.clip_shards)
        return autoencoding.Autoencoding(networks.autoencoder, model, crops, made.autoencoder)
    data, denoiser = latents.read(made.folder, made.latent_shards), Denoiser(networks, model)
    if name == "base":
        return flow.Flow(denoiser, data, made.base)
    teacher = Denoiser(architecture.build(model, 1), model)
    return distilling.Distillation(denoiser, teacher, data, made.distil)


@pytest.mark.parametrize("name", ["autoencoder", "base", "distil"])
def test_a_stage_continues_as_if_it_had_not_been_interrupted(
    name: str, trained: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SHARD", 40)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    first = stage(name, trained, straight)
    running.run(first, straight, quiet=True)
    running.run(stage(name, trained, stopped), stopped, quiet=True, stop_at=1)
    second = stage(name, trained, stopped)
    running.run(second, stopped, quiet=True)
    whole, parts = (running.load(running.path_of(f, first.name)) for f in (straight, stopped))
    assert whole["finished"] and parts["finished"]
    assert_same(whole["stage"], parts["stage"])


def assert_same(a: object, b: object) -> None:
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert isinstance(b, list) and len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b)
    else:
        assert a == b


def test_every_stage_logs_its_losses(trained: Plan) -> None:
    assert_logged(trained)


def assert_logged(made: Plan) -> None:
    for name in ("autoencoder", flow.Flow.name, distilling.Distillation.name):
        rows = [json.loads(line) for line in (made.folder / f"{name}.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 2
        assert np.isfinite(rows[-1]["loss"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_every_stage_on_a_gpu(tmp_path: Path) -> None:
    made = train(plan(tmp_path / "tiny", "cuda"))
    assert_logged(made)
    recipe.export(made, tmp_path / "nano", graphs=False)
    with Pipeline.load(str(tmp_path / "nano"), backend="torch", device="cuda") as pipeline:
        assert np.isfinite(pipeline.generate(Request(prompt="a sine tone", seconds=1, seed=1, steps=2)).audio).all()


def test_finished_stages_are_left_alone(trained: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("ran again")

    monkeypatch.setattr(running, "run", refuse)
    recipe.distil(trained)


def test_the_checkpoint_says_how_it_was_trained(checkpoint: Path) -> None:
    raw = json.loads((checkpoint / CONFIG).read_text())
    assert raw["sa3_trained"] is True
    assert raw["sa3_training"]["steps"] == {"autoencoder": 2, "flow": 2, "distilled": 2}
    assert raw["model"]["diffusion"]["diffusion_objective"] == "rf_denoiser"


def test_the_checkpoint_makes_sound(checkpoint: Path) -> None:
    with Pipeline.load(str(checkpoint), backend="torch") as pipeline:
        made = pipeline.generate(Request(prompt="a sine tone, note A4", seconds=1, seed=1, steps=2))
    assert made.sounds[0].samples.shape == (2, 44100)
    assert np.isfinite(made.sounds[0].samples).all()


@pytest.mark.slow
def test_its_graphs_agree_with_torch(trained: Plan, tmp_path: Path) -> None:
    recipe.export(trained, tmp_path)
    request = Request(prompt="a sine tone, note A4", seconds=1, seed=1, steps=2)
    made: list[np.ndarray] = []
    for backend in ("onnx", "torch"):
        with Pipeline.load(str(tmp_path), backend=backend) as pipeline:
            made.append(pipeline.generate(request).sounds[0].samples)
    assert np.abs(made[0] - made[1]).max() < 1e-3


def test_the_base_is_exported_with_its_own_objective(trained: Plan, tmp_path: Path) -> None:
    recipe.export(trained, tmp_path, stage=flow.Flow.name, graphs=False)
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert raw["model"]["diffusion"]["diffusion_objective"] == "rectified_flow"
    assert raw["sa3_training"]["steps"] == {"autoencoder": 2, "flow": 2}


def test_a_report_shows_curves_and_sounds(
    trained: Plan, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "SHEET", (("one kick drum", 0.5),))
    measured = tmp_path / "quality.json"
    tally = {"pitch": {"passed": 3, "of": 4}}
    measured.write_text(json.dumps([{"model": "nano", "properties": tally}]))
    report.write(trained, str(checkpoint), tmp_path / "page.html", measured)
    page = (tmp_path / "page.html").read_text()
    assert "3/4 75%" in page and page.count("<audio") == 1


def test_a_curve_needs_two_points() -> None:
    assert "<svg" in report.curve([(20, 1.0), (40, 0.5)], "loss")
    assert "<svg" not in report.curve([(20, 1.0)], "loss")


def test_options_reach_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Plan] = []
    remember: Callable[[Plan], None] = seen.append
    monkeypatch.setitem(__import__("sa3_training.__main__", fromlist=["STAGES"]).STAGES, "base", remember)
    assert main(["base", "--runs", str(tmp_path), "--name", "a", "--base-steps", "7", "--device", "meta"]) == 0
    assert seen[0].base.steps == 7 and seen[0].base.device == "meta" and seen[0].folder == tmp_path / "a"
