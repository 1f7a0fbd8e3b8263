"""A checkpoint's own files in a bundle: which they are, what they hash to, and how they get there.

Large weights are hard links where the file system allows, since a copy would cost gigabytes; all else is a copy, so
that whoever edits a bundle edits no checkpoint. Random weights are made and written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sa3_engines import config, models, remembered
from sa3_engines.models import CONFIG, RANDOM, WEIGHTS, Source
from sa3_engines.tensors import TensorFile
from sa3_exporters.targets import Weight
from stable_audio_3 import checkpoint, random_weights

LARGE = 64 << 20  # bytes from which weights are shared with the checkpoint


def digest(source: Source) -> str:
    """Of everything an export is made from."""
    if source.seed is not None:
        made_by = Path(random_weights.__file__).read_text("utf-8")
        text = json.dumps([source.name, source.seed, source.config.raw, source.config.raw_text, made_by], default=str)
    else:
        text = "".join(f"{name} {remembered.sha256(path)}\n" for name, path in sorted(models.files(source).items()))
    return hashlib.sha256(text.encode()).hexdigest()


def place(source: Source, folder: Path) -> None:
    if source.seed is not None:
        _write_random(source, folder)
        return
    for name, path in models.files(source).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (is_large(path) and _linked(path.resolve(), target)):
            shutil.copyfile(path, target)
    if source.config.dit is None and config.is_full(models.read_json(folder / CONFIG)):
        # An autoencoder taken out of a full checkpoint: the bundle says that it is no more than that.
        _write_json(folder / CONFIG, _autoencoder_alone(source.config.raw))


def is_large(path: Path) -> bool:
    return path.name == WEIGHTS and path.stat().st_size >= LARGE


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        return False
    return True


def shared(source: Source, folder: Path) -> list[str]:
    """The files of a bundle that are the checkpoint's own: what changes the one changes the other."""
    return [
        name
        for name, path in models.files(source).items()
        if (folder / name).is_file() and (folder / name).samefile(path)
    ]


def _autoencoder_alone(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in ("sample_rate", "sample_size", "audio_channels") if key in raw}
    return {"model_type": "autoencoder", **kept, "model": raw["model"]["pretransform"]["config"]}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def _write_random(source: Source, folder: Path) -> None:
    from safetensors.torch import save_file

    networks = checkpoint.load(source)
    _write_json(folder / CONFIG, dict(source.config.raw) | {RANDOM: source.seed})
    if source.config.text is not None:
        (folder / source.config.text.folder).mkdir(parents=True)
        _write_json(folder / source.config.text.folder / "config.json", dict(source.config.raw_text))
    tensors: dict[Path, dict[str, torch.Tensor]] = {}
    for prefix, part in networks.parts():
        inside = source.config.text.folder if source.config.text and prefix == checkpoint.TEXT else ""
        place = tensors.setdefault(folder / inside / WEIGHTS, {})
        place |= {prefix + key: tensor.contiguous() for key, tensor in part.state_dict().items()}
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)


def weights(folder: Path, text_folder: str | None) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    for location in [WEIGHTS, *([f"{text_folder}/{WEIGHTS}"] if text_folder else [])]:
        stored = TensorFile(folder / location).tensors
        found |= {name: Weight(location, tensor) for name, tensor in stored.items()}
    return found


def licence(source: Source) -> str:
    """What whoever receives the bundle has to know."""
    if source.seed is not None:
        return "Random weights made by this project; MIT, like its code."
    if source.name == "nano":
        return "Trained by this project on sounds it made itself; MIT, like its code."
    if source.repo and source.repo.startswith("stabilityai/"):
        text = " Text encoder: Gemma Terms of Use (https://ai.google.dev/gemma/terms)." if source.config.text else ""
        return (
            f"Converted from https://huggingface.co/{source.repo}. "
            f"Weights: Stability AI Community License (https://stability.ai/license).{text}"
        )
    where = f"https://huggingface.co/{source.repo}" if source.repo else source.name
    return f"Converted from {where}; the licence of those weights applies."
