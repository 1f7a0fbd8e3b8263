"""Which layers must stay fp32: a planted one is found, a healthy model needs none, and export reads the table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa3_engines import models, quantise
from sa3_engines.engine import Options
from sa3_engines.quantise import Blocks
from sa3_exporters import islands, sensitivity
from sa3_exporters.sensitivity import Answer, Part, Result
from stable_audio_3.engine import BACKEND as TORCH

PLANTED = "model.model.transformer.layers.1.ff.ff.0.proj.weight"


@pytest.fixture
def planted(golden: Path, tmp_path: Path) -> Path:
    """tiny-small with one column of one weight a hundred times as large: all others of its group lose their levels."""
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", folder, ignore=shutil.ignore_patterns("cases", "loras"))
    tensors = load_file(folder / "model.safetensors")
    tensors[PLANTED] = tensors[PLANTED].clone()
    tensors[PLANTED][:, 5] *= 100
    save_file(tensors, folder / "model.safetensors")
    return folder


def measured(folder: Path, graph: str, tier: str = "fast") -> Result:
    source = models.from_folder(folder)
    engine = TORCH.open(source, Options(device="cpu", precision="fp32", threads=1))
    (part,) = [part for part in sensitivity.parts(engine, source) if part.graph == graph]
    return sensitivity.measure(part, tier, islands.patterns("", tier))


def test_a_planted_layer_stays_fp32(planted: Path):
    result = measured(planted, "step")
    assert result.layers[0].key == PLANTED and result.layers[0].exact
    assert result.before.cosine < 0.995 <= result.after.cosine and result.keeps
    assert sum(layer.exact for layer in result.layers) < 5


@pytest.mark.parametrize("graph", ["text", "step", "encode", "decode"])
def test_a_healthy_model_needs_no_more_islands(golden: Path, graph: str):
    result = measured(golden / "tiny-small", graph)
    assert result.keeps and result.before == result.after and 0.995 < result.before.cosine < 1
    assert result.layers and not any(layer.exact for layer in result.layers)
    assert sum(layer.work for layer in result.layers) <= 1.0001
    assert list(result.layers) == sorted(result.layers, key=lambda layer: -layer.rank)
    assert not any("timestep" in layer.key or "global" in layer.key for layer in result.layers)
    assert all(layer.snr_db > result.before.snr_db - 3 for layer in result.layers)  # one does less harm than all


def test_the_model_is_itself_again_afterwards(golden: Path):
    source = models.from_folder(golden / "tiny-small")
    engine = TORCH.open(source, Options(device="cpu", precision="fp32", threads=1))
    (part,) = [part for part in sensitivity.parts(engine, source) if part.graph == "step"]
    before = part.ask()
    all_of_them = ((linear, Blocks(4, 32)) for linear in part.linears.values())
    with pytest.raises(KeyboardInterrupt), sensitivity.quantised(all_of_them):
        assert not np.array_equal(part.ask(), before)
        raise KeyboardInterrupt
    assert np.array_equal(part.ask(), before)


@pytest.mark.parametrize("columns", [64, 100])
def test_activations_are_quantised_by_group_and_token(columns: int):
    x = torch.randn(2, 3, columns, generator=torch.Generator().manual_seed(0))
    levels, scale = quantise.int8(x.reshape(6, columns).numpy(), 64)
    expected = quantise.dequantise(levels, scale, 64)
    assert np.allclose(sensitivity.activations(x, 64).reshape(6, columns).numpy(), expected, atol=1e-6)


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
        count, after = sensitivity._fewest(ranked, answer(needed), Answer(0.5, 3.0), 0.995, 5)
        assert (count, after.cosine) == (needed, 0.999)
    assert sensitivity._fewest(ranked, answer(7), Answer(0.5, 3.0), 0.995, 5) == (5, Answer(0.5, 30.0))
    assert sensitivity._fewest(ranked, answer(7), Answer(0.996, 9.0), 0.995, 5)[0] == 0
    assert max(asked) == 5


def test_not_a_number_is_as_far_as_can_be():
    ones = np.ones((2, 3), np.float32)
    spoiled = ones.copy()
    spoiled[1, 1] = np.nan
    assert sensitivity.compare(ones, spoiled) == Answer(-1.0, -200.0)
    spoiled[1] = -1
    assert sensitivity.compare(ones, spoiled).cosine == pytest.approx(-1)  # the worst item, not their mean


def test_the_table_is_what_export_reads(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "islands.json"
    assert sensitivity.main(["--model", str(planted), "--out", str(out), "--threads", "1"]) == 0
    found = islands.patterns("onnx", "fast", out)
    assert set(islands.patterns("onnx", "fast")) < set(found)
    assert sum(sensitivity._matches(PLANTED, [pattern]) for pattern in found) == 1
    assert not sensitivity._matches(PLANTED.replace("layers.1", "layers.0"), found)
    written = json.loads(out.read_text())
    assert written["model"] == "model" and len(written["digest"]) == 64
    assert set(written["measured"]) == {"text", "step", "encode", "decode"}
    assert "layers in fp32" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["islands.json"]


def test_an_interrupt_writes_nothing(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(part: Part, *rest: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(sensitivity, "measure", interrupted)
    command = ["--model", str(golden / "tiny-small"), "--out", str(tmp_path / "x.json")]
    assert sensitivity.main(command) == 130
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_error_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sensitivity.main(["--model", "nano", "--out", str(tmp_path / "no" / "x.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sensitivity: ") and "there is no folder" in said and said.count("\n") == 1
