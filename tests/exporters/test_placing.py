"""A checkpoint's files in a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sa3_engines import models
from sa3_engines.errors import CheckpointError
from sa3_exporters import placing


def test_a_text_encoder_further_down(golden: Path, tmp_path: Path):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(golden / "tiny-small", model, ignore=shutil.ignore_patterns("cases", "loras"))
    raw = json.loads((model / "model_config.json").read_text())
    raw["model"]["conditioning"]["configs"][0]["config"]["subfolder"] = "encoders/t5"
    (model / "model_config.json").write_text(json.dumps(raw))
    (model / "encoders").mkdir()
    (model / "t5gemma-b-b-ul2").rename(model / "encoders" / "t5")
    out.mkdir()
    placing.place(models.from_folder(model), out)
    assert models.files(models.from_folder(out)).keys() == models.files(models.from_folder(model)).keys()
    assert (out / "encoders" / "t5" / "config.json").is_file()


def test_weights_that_are_split(golden: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", model, ignore=shutil.ignore_patterns("cases", "loras"))
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing; .*index.json says that it is split into"):
        models.files(models.from_folder(model))
