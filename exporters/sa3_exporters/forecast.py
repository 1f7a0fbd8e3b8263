"""What an export would make, how large and for which machine, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sa3_engines import models, processor
from sa3_engines.models import WEIGHTS, Source
from sa3_engines.tensors import TensorFile
from sa3_exporters import forms, placing
from sa3_exporters.build import Recipe
from sa3_exporters.targets import Target, Tier
from stable_audio_3 import checkpoint
from stable_audio_3.checkpoint import AUTOENCODER


def describe(recipe: Recipe, target: Target, wanted: Sequence[Tier]) -> list[str]:
    """What `build` would do, in lines."""
    source = recipe.source
    with torch.device("meta"):
        networks = checkpoint.build(source.config)
    lines = [f"model      {source.name}" + (f" ({source.repo}@{source.revision})" if source.repo else "")]
    lines.append(f"target     {recipe.target}: {', '.join(recipe.graphs)}")
    for tier in wanted:
        needs = f", on processors with {', '.join(tier.instructions)}" if tier.instructions else ""
        size = ", weights as in the checkpoint"
        if tier.type != "fp32":
            size = f", about {_size(recipe, tier) / 1e6:,.3g} MB of weights"
        lines.append(f"precision  {tier.name}: {tier.type}{size}{needs}")
    lines.append(f"durations  {recipe.profile}")
    lines.append(f"for        {processor.described()}")
    lines.append(f"folder     {recipe.out}" + (" (in place: graphs and manifest are added)" if recipe.in_place else ""))
    if source.seed is not None:
        numbers = sum(tensor.numel() for _, part in networks.parts() for tensor in part.state_dict().values())
        lines.append(f"weights    random, of seed {source.seed}, written into the folder, about {4 * numbers:,} bytes")
    elif not recipe.in_place:
        lines += [_file(name, path, recipe.out) for name, path in models.files(source).items()]
    return lines


def _file(name: str, path: Path, out: Path) -> str:
    above = next(folder for folder in (out, *out.parents) if folder.exists())
    # Links need one disk; whether it has links shows when one is made.
    shared = placing.is_large(path) and path.stat().st_dev == above.stat().st_dev
    how = "shared with the model, takes no space where the disk has hard links" if shared else "copied"
    return f"file       {name}, {path.stat().st_size:,} bytes, {how}"


def _size(recipe: Recipe, tier: Tier) -> int:
    """Bytes of the weights that a tier stores anew. A graph of which no layer changes is the exact one. What
    describes a graph comes on top: a few megabytes, however large the model, and not known before it is traced.
    """
    weights = list(forms.held(recipe.source.config, recipe.graphs, recipe.target, tier))
    changed = {one.graph for one in weights if one.form is not None}
    total = sum(one.form.size for one in weights if one.form is not None)
    if recipe.target in forms.WITH_ALL:
        stored = _stored(recipe.source)
        kept = [one for one in weights if one.form is None and one.graph in changed]
        total += sum(stored.get(one.key, stored.get(AUTOENCODER + one.key, 4 * one.numbers)) for one in kept)
    return total


def _stored(source: Source) -> dict[str, int]:
    """Bytes of the checkpoint's tensors; none where it is yet to be made up, in fp32."""
    files = (path for path in models.files(source).values() if path.name == WEIGHTS)
    return {name: tensor.size for path in files for name, tensor in TensorFile(path).tensors.items()}
