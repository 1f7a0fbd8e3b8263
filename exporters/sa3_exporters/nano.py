"""A model of nano's shape that has learned nothing: `python -m sa3_exporters.nano FOLDER`.

Configuration and tokenizer are those of the `nano` that comes with the package, the weights are seeded and random.
Tests and comparisons use it; what it generates is noise.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sa3_engines import config as configs
from sa3_engines import models
from sa3_engines.models import CONFIG, HERE, WEIGHTS
from sa3_exporters import build
from stable_audio_3 import checkpoint
from stable_audio_3.random_weights import random_tensor

SEED = 3
SHIPPED = HERE / "nano"


def write(folder: Path) -> None:
    """The checkpoint, in half precision; frequencies stay exact."""
    raw = models.read_json(SHIPPED / CONFIG)
    text_name = configs.text_folder(raw)
    raw_text = models.read_json(SHIPPED / text_name / "config.json")
    raw["sa3_trained"] = False  # commands then say that what comes out is texture, not music
    raw.pop("sa3_training", None)
    text_folder = folder / text_name
    text_folder.mkdir(parents=True, exist_ok=True)
    for path, value in ((folder / CONFIG, raw), (text_folder / "config.json", raw_text)):
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    shutil.copyfile(SHIPPED / text_name / "tokenizer.json", text_folder / "tokenizer.json")
    with torch.device("meta"):
        networks = checkpoint.build(configs.parse(raw, raw_text))
    tensors: dict[Path, dict[str, torch.Tensor]] = {folder / WEIGHTS: {}, text_folder / WEIGHTS: {}}
    for prefix, part in networks.parts():
        place = tensors[(text_folder if prefix == checkpoint.TEXT else folder) / WEIGHTS]
        for key, like in part.state_dict().items():
            tensor = random_tensor(prefix + key, like, SEED)
            place[prefix + key] = tensor if key.endswith("inv_freq") else tensor.half()
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)


def main(folder: Path) -> None:
    if folder.absolute() == SHIPPED:
        raise SystemExit(f"{folder} holds the trained model; choose another folder")
    write(folder)
    source = models.from_folder(folder, name="nano")
    build.build(build.Recipe(source=source, out=folder.absolute(), precision=("exact",)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
