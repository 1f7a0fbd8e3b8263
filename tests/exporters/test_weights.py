"""What cannot be exported of a checkpoint is told at once, by its own files' names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa3_engines import models
from sa3_engines.errors import CheckpointError
from sa3_exporters import cli, publishing, weights

WEIGHT = "model.model.transformer.layers.0.self_attn.to_qkv.weight"
TEXT = "t5gemma-b-b-ul2"


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", copy, ignore=shutil.ignore_patterns("cases", "loras"))
    return copy


def change(path: Path, work: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    work(tensors)
    save_file(tensors, path)


def export(folder: Path) -> int:
    return cli.main(["--model", str(folder), "--target", "onnx", "--out", str(folder.parent / "out")])


def test_a_type_that_no_graph_reads(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    path = folder / "model.safetensors"
    change(path, lambda tensors: tensors.update({key: tensor.double() for key, tensor in tensors.items()}))
    monkeypatch.setattr(publishing, "only_one", lambda *_: pytest.fail("it began"))
    assert export(folder) == CheckpointError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"sa3-export: {path}: ") and said.count("\n") == 1
    assert "(F64)" in said and "more cannot be exported: graphs read weights of type F32, F16, BF16" in said


def test_the_host_reads_doubles(folder: Path):
    host = ("inv_freq", "padding_embedding", "embedding.1.weight", "embedding.1.bias")
    for path in (folder / "model.safetensors", folder / TEXT / "model.safetensors"):
        change(path, lambda t: t.update({key: one.double() for key, one in t.items() if key.endswith(host)}))
    weights.check_types(models.from_folder(folder))
    weights.check_numbers(models.from_folder(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number(folder: Path, dtype: torch.dtype, value: float):
    path = folder / "model.safetensors"

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[WEIGHT] = tensors[WEIGHT].to(dtype)
        tensors[WEIGHT][-1, -1] = value

    weights.check_numbers(models.from_folder(folder))
    change(path, spoil)
    with pytest.raises(CheckpointError, match=f"{path}: {WEIGHT} holds NaN or infinity"):
        weights.check_numbers(models.from_folder(folder))


def test_what_is_not_of_the_model_may_be_anything(folder: Path, golden: Path):
    nothing = torch.full((3,), np.nan, dtype=torch.float64)
    change(folder / TEXT / "model.safetensors", lambda tensors: tensors.update({"model.decoder.x": nothing}))
    change(folder / "model.safetensors", lambda tensors: tensors.update({"model.model.x": nothing}))
    alone = models.from_folder(folder).autoencoder_only()
    weights.check_types(alone)
    weights.check_numbers(alone)
    with pytest.raises(CheckpointError, match=r"model\.model\.x \(F64\)"):
        weights.check_types(models.from_folder(folder))
    weights.check_types(models.locate("random:nano"))
    weights.check_numbers(models.locate("random:nano"))


def test_an_error_names_the_checkpoints_own_file(folder: Path, capsys: pytest.CaptureFixture[str]):
    change(folder / "model.safetensors", lambda tensors: tensors.pop(WEIGHT))
    assert export(folder) == CheckpointError.exit_code
    assert f"{folder}/model.safetensors: 1 missing: {WEIGHT}" in capsys.readouterr().err
    assert list(folder.parent.iterdir()) == [folder]


def test_no_tokenizer_is_told_of(folder: Path):
    path = folder / TEXT / "tokenizer.json"
    said = f"there is no {path}: the bundle makes no sound from a prompt without"
    assert weights.check_tokenizer(models.from_folder(folder)) == said
    for good in (
        models.locate("nano"),
        models.locate("random:small-music"),
        models.from_folder(folder).autoencoder_only(),
    ):
        assert weights.check_tokenizer(good) is None


@pytest.mark.parametrize("content", ["", "{}", "no JSON", None])
def test_a_damaged_tokenizer(folder: Path, content: str | None, capsys: pytest.CaptureFixture[str]):
    path = folder / TEXT / "tokenizer.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    assert export(folder) == CheckpointError.exit_code
    assert capsys.readouterr().err.startswith(f"sa3-export: {path} is not a tokenizer: ")
    assert list(folder.parent.iterdir()) == [folder]


def test_another_models_tokenizer(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = folder / TEXT / "tokenizer.json"
    shutil.copyfile(models.HERE / "nano" / TEXT / "tokenizer.json", path)
    assert export(folder) == CheckpointError.exit_code
    assert "tokens and the text encoder 211; they are of different models" in capsys.readouterr().err
