"""Writes what was trained: a checkpoint laid out as released ones are, and from it the bundle that ships."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from sa3_engines import config as configs
from sa3_engines.models import CONFIG, WEIGHTS
from sa3_training import architecture
from stable_audio_3 import checkpoint
from stable_audio_3.checkpoint import Networks

BASE_OBJECTIVE = "rectified_flow"


def commit() -> str:
    """Of the recipe; empty where there is no repository to ask."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def write_checkpoint(
    folder: Path, networks: Networks, tokenizer: Tokenizer, facts: dict[str, Any], *, base: bool = False
) -> None:
    """In half precision; frequencies stay exact. `facts` say how it was trained, and that it was."""
    raw, raw_text = copy.deepcopy(architecture.config()), architecture.text_config()
    raw["sa3_trained"] = bool(facts)
    raw["sa3_training"] = {"recipe": "python -m sa3_training nano", "commit": commit()} | facts
    if base:
        raw["model"]["diffusion"]["diffusion_objective"] = BASE_OBJECTIVE
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
            kept = tensor.detach().cpu()
            place[prefix + key] = kept.clone() if key.endswith("inv_freq") else kept.half()
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)
