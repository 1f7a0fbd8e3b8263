"""Which layers must stay fp32: a planted one is found, a healthy model needs none, and export reads the table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa3_engines import models, quantise, tiers
from sa3_engines.bundle import Profile
from sa3_engines.engine import GRAPHS, Options
from sa3_engines.errors import ParityError
from sa3_exporters import forms, islands, layers, onnx_tiers, placing, sensitivity, targets
from sa3_exporters.build import Recipe
from sa3_exporters.layers import Answer, Part, Result
from sa3_exporters.parity import Gate
from sa3_exporters.targets import Form, Tier, Work
from stable_audio_3.engine import BACKEND as TORCH

PLANTED = "model.model.transformer.layers.1.self_attn.to_qkv.weight"


@pytest.fixture
def planted(golden: Path, tmp_path: Path) -> Path:
    """tiny-small with one column of one weight two hundred times as large: its groups lose their levels."""
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", folder, ignore=shutil.ignore_patterns("cases", "loras"))
    tensors = load_file(folder / "model.safetensors")
    tensors[PLANTED] = tensors[PLANTED].clone()
    tensors[PLANTED][:, 5] *= 200
    save_file(tensors, folder / "model.safetensors")
    return folder


def part_of(folder: Path, graph: str) -> Part:
    """Asked about half a second: what is planted shows at any length."""
    source = models.from_folder(folder)
    engine = TORCH.open(source, Options(device="cpu", precision="fp32", threads=1))
    profile = Profile(min_seconds=0, opt_seconds=0.5, max_seconds=0.5)
    recipe = Recipe(source=source, out=folder, graphs=("prepare", graph), profile=profile)
    return next(part for part in layers.parts(engine, recipe) if part.graph == graph)


def tier_of(name: str) -> Tier:
    made = targets.load("onnx").tiers()[name]
    assert isinstance(made, Tier)
    return made


def measured(folder: Path, graph: str, tier: str = "fast") -> Result:
    return layers.measure(part_of(folder, graph), onnx_tiers.form, tier_of(tier), iter)


def test_a_planted_layer_stays_fp32(planted: Path):
    result = measured(planted, "step")
    assert PLANTED in [layer.key for layer in result.layers if layer.exact]
    assert result.before.agreement < 0.995 <= result.after.agreement and result.keeps
    assert sum(layer.exact for layer in result.layers) < 5


@pytest.mark.parametrize("graph", ["text", "prepare", "step", "encode", "decode"])
def test_a_healthy_model_needs_no_more_islands(golden: Path, graph: str):
    result = measured(golden / "tiny-small", graph)
    assert result.keeps and result.before == result.after and 0.995 < result.before.agreement < 1
    assert result.layers and not any(layer.exact for layer in result.layers)
    assert sum(layer.work for layer in result.layers) <= 1.0001
    assert list(result.layers) == sorted(result.layers, key=lambda layer: -layer.rank)
    assert not any("timestep" in layer.key or "global" in layer.key for layer in result.layers)
    assert all(layer.snr_db > result.before.snr_db - 3 for layer in result.layers)  # one does less harm than all


def test_the_model_is_itself_again_afterwards(golden: Path):
    part = part_of(golden / "tiny-small", "step")
    (before,) = part.ask(part.cases[0])
    all_of_them = ((linear, Form("int8", 0, np.zeros_like)) for linear in part.linears.values())
    with pytest.raises(KeyboardInterrupt), layers.formed(all_of_them):
        assert not np.array_equal(part.ask(part.cases[0])[0], before)
        raise KeyboardInterrupt
    assert np.array_equal(part.ask(part.cases[0])[0], before)


@pytest.mark.parametrize("columns", [64, 100])
def test_activations_are_quantised_by_group_and_token(columns: int):
    x = torch.randn(2, 3, columns, generator=torch.Generator().manual_seed(0))
    levels, scale = quantise.int8(x.reshape(6, columns).numpy(), 64)
    expected = quantise.dequantise(levels, scale, 64)
    assert np.allclose(layers.activations(x, 64).reshape(6, columns).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_layer_takes_and_gives_half_precision_where_that_is_around_it(kind: torch.dtype):
    linear, x = torch.nn.Linear(64, 32), torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    with torch.no_grad():
        expected = linear(x.to(kind).float()).to(kind).float()
        with layers.formed([(linear, Form("int8", 0, lambda weight: weight, around=name))]):
            assert torch.equal(linear(x), expected)
        assert not torch.equal(linear(x), expected)


def test_as_few_layers_as_will_do():
    """And when half of the work is not enough, it says so."""
    asked: list[int] = []

    def answer(needed: int) -> Any:
        def of(keys: list[str]) -> Answer:
            asked.append(8 - len(keys))
            return Answer(0.999 if 8 - len(keys) >= needed else 0.5, 30.0)

        return of

    ranked = [str(i) for i in range(8)]
    for needed in range(1, 6):
        count, after = layers._fewest(ranked, answer(needed), Answer(0.5, 3.0), 0.995, 5)
        assert (count, after.agreement) == (needed, 0.999)
    assert layers._fewest(ranked, answer(7), Answer(0.5, 3.0), 0.995, 5) == (5, Answer(0.5, 30.0))
    assert layers._fewest(ranked, answer(7), Answer(0.996, 9.0), 0.995, 5)[0] == 0
    assert max(asked) == 5


def test_not_a_number_is_as_far_as_can_be():
    ones = np.ones(3, np.float32)
    spoiled = np.array([1, np.nan, 1], np.float32)
    assert layers.compare([[ones], [ones, ones]], [[ones], [ones, spoiled]]) == Answer(-1.0, -200.0)
    assert layers.compare([[ones], [ones, ones]], [[ones], [ones, -ones]]).agreement == pytest.approx(-1)  # the worst


def test_the_table_is_what_export_reads(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "islands.json"
    assert sensitivity.main(["--model", str(planted), "--out", str(out), "--threads", "1"]) == 0
    made = targets.load("onnx").tiers(out)["fast"]
    assert isinstance(made, Tier) and set(islands.patterns("onnx", "fast")) < set(made.exact)
    assert islands.is_exact(made, PLANTED) and not islands.is_exact(made, PLANTED.replace("layers.1", "layers.0"))
    assert islands.patterns("openvino", "fast", out) == islands.patterns("openvino", "fast")  # it was not asked about
    written = json.loads(out.read_text())
    assert written["model"] == "model" and islands.doubt(out, models.from_folder(planted), "onnx") is None
    assert set(written["measured"]) == set(GRAPHS)
    assert "layers in fp32" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["islands.json"]


def test_a_table_that_would_not_reach_the_floor_is_an_error(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(forms.FORMS, "onnx", lambda *_: Form("int8", 0, np.zeros_like))
    command = ["--model", str(golden / "tiny-small"), "--out", str(tmp_path / "x.json"), "--threads", "1"]
    assert sensitivity.main(command) == ParityError.exit_code
    said = capsys.readouterr()
    assert said.err == (
        "sensitivity: fast keeps no 0.99 with a margin in prepare with half of the work in fp32; leave the tier out. "
        "Nothing was written\n"
    )
    assert said.out.startswith("text ") and not list(tmp_path.iterdir())  # text may stay fp32 as a whole


def test_a_tier_that_cannot_be_made_here_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sensitivity.main(["--model", "nano", "--tier", "high", "--out", str(tmp_path / "x.json")]) == 4
    assert "target onnx cannot make precision high here: ONNX Runtime has no half" in capsys.readouterr().err


def test_what_is_promised_is_what_the_gate_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The worst graph of the one trained model: a step of nano in four bits, as it is and with the layers found."""
    monkeypatch.setattr(islands, "LARGE", 0)
    nano = models.locate("nano", bundles=False)
    assert nano.folder is not None
    profile = Profile(min_seconds=0, opt_seconds=1, max_seconds=1)
    recipe = Recipe(source=nano, out=tmp_path, graphs=("prepare", "step"), profile=profile)
    placing.place(nano, tmp_path)
    engine = TORCH.open(nano, Options(device="cpu", precision="fp32"))
    part = list(layers.parts(engine, recipe))[-1]
    before = tier_of("compact")
    result = layers.measure(part, onnx_tiers.form, before, iter)
    assert result.before.agreement < tiers.FLOORS["compact"] < 0.995 <= result.after.agreement
    gate = Gate(engine, profile)
    for made, promised in ((before, None), (layers.with_islands(before, result), result.after.agreement)):
        known = {graph: nano.folder / f"{graph}.onnx" for graph in recipe.graphs}
        weights = placing.weights(tmp_path, None)
        work = Work(folder=tmp_path, config=nano.config, networks=None, weights=weights, known=known)
        files = {graph: targets.load("onnx").convert(graph, made, work)[0] for graph in recipe.graphs}
        exported = targets.load("onnx").open(work, made, files)
        if promised is None:
            with pytest.raises(ParityError, match=r"compact asks for a cosine of 0\.99"):
                gate.compare("step", exported, "compact")
        else:
            assert gate.compare("step", exported, "compact").cosine == pytest.approx(promised, abs=5e-4)
        exported.close()
    engine.close()


def test_an_interrupt_writes_nothing(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(part: Part, *rest: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "measure", interrupted)
    command = ["--model", str(golden / "tiny-small"), "--out", str(tmp_path / "x.json")]
    assert sensitivity.main(command) == 130
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_error_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sensitivity.main(["--model", "nano", "--out", str(tmp_path / "no" / "x.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sensitivity: ") and "there is no folder" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--tier", "exact"], 2),
        (["--tier", "high"], 4),
        (["--model", "nope"], 3),
        (["--out", "no/x.json"], 2),
    ],
)
def test_what_can_be_told_without_torch_is(tmp_path: Path, words: list[str], code: int):
    program = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
    program += "from sa3_exporters import sensitivity; sys.exit(sensitivity.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--model", "nano", "--out", "x.json", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("False\n") and done.stderr.count("\n") == (code != 0)
