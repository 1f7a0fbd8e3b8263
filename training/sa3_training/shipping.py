"""What training leaves: a checkpoint in the released models' layout, and the bundle that comes with the package."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from sa3_engines import config as configs
from sa3_engines import models
from sa3_engines.models import CONFIG, WEIGHTS
from sa3_exporters import build
from sa3_training import architecture
from stable_audio_3 import checkpoint
from stable_audio_3.checkpoint import Networks

Json = dict[str, Any]


def commit() -> str:
    """Of the code that trained; empty where there is no repository."""
    here = Path(__file__).parent
    command = ("git", "-C", str(here), "rev-parse", "HEAD")
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def origin(steps: Mapping[str, int]) -> Json:
    return {"commit": commit(), "steps": dict(steps), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def write(folder: Path, networks: Networks, tokenizer: Tokenizer, about: Json, *, objective: str) -> None:
    """In half precision; frequencies stay exact."""
    raw, raw_text = architecture.config(), architecture.text_config()
    raw |= {"sa3_trained": True, "sa3_training": about}
    raw["model"]["diffusion"]["diffusion_objective"] = objective
    parsed = configs.parse(raw, raw_text)
    assert parsed.text is not None
    text_folder = folder / parsed.text.folder
    text_folder.mkdir(parents=True, exist_ok=True)
    for path, value in ((folder / CONFIG, raw), (text_folder / "config.json", raw_text)):
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    (text_folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", "utf-8")
    tensors: dict[Path, dict[str, torch.Tensor]] = {folder / WEIGHTS: {}, text_folder / WEIGHTS: {}}
    for prefix, part in networks.parts():
        place = tensors[(text_folder if prefix == checkpoint.TEXT else folder) / WEIGHTS]
        for key, tensor in part.state_dict().items():
            held = tensor.detach().cpu().contiguous()
            place[prefix + key] = held if key.endswith("inv_freq") else held.half()
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)


def bundle(folder: Path, name: str = "nano") -> None:
    """The graphs, beside the checkpoint."""
    source = models.from_folder(folder, name=name)
    build.build(build.Recipe(source=source, out=folder.absolute(), target="onnx", precision=("exact",)))
