"""What an export would make, how large and for which machine, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sa3_engines import models, processor
from sa3_exporters import onnx_tiers
from sa3_exporters.build import Recipe
from sa3_exporters.forms import FORMS
from sa3_exporters.targets import Target, Tier
from stable_audio_3 import checkpoint
from stable_audio_3.checkpoint import AUTOENCODER, DIT, TEXT, Networks

# Where each graph's weights are in a full checkpoint. `prepare` and `step` share the transformer's.
PARTS = {
    "text": TEXT,
    "prepare": DIT,
    "step": DIT,
    "encode": f"{AUTOENCODER}encoder.",
    "decode": f"{AUTOENCODER}decoder.",
}


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
            size = f", about {_size(recipe, tier, networks) / 1e6:,.3g} MB"
        lines.append(f"precision  {tier.name}: {tier.type}{size}{needs}")
    lines.append(f"durations  {recipe.profile}")
    lines.append(f"for        {processor.described()}")
    lines.append(f"folder     {recipe.out}" + (" (in place: graphs and manifest are added)" if recipe.in_place else ""))
    if source.seed is not None:
        numbers = sum(tensor.numel() for _, part in networks.parts() for tensor in part.state_dict().values())
        lines.append(f"weights    random, of seed {source.seed}, written into the folder, about {4 * numbers:,} bytes")
    elif not recipe.in_place:
        lines += [f"file       {name}, {path.stat().st_size:,} bytes" for name, path in models.files(source).items()]
    return lines


def _size(recipe: Recipe, tier: Tier, networks: Networks) -> int:
    """Bytes of the weights that a lower tier stores anew: those of the graphs' linear layers, but for its islands."""
    graphs = {PARTS[graph]: graph for graph in recipe.graphs}
    total = 0
    for prefix, part in networks.parts():
        for name, module in part.named_modules():
            key = f"{prefix}{name}.weight"
            graph = next((graph for place, graph in graphs.items() if key.startswith(place)), None)
            if graph is not None and isinstance(module, nn.Linear):
                shape = module.out_features, module.in_features
                # None is a layer that stays as it is.
                total += _stored(tier, key, shape) if FORMS[recipe.target](graph, tier, key, shape) else 0
    return total


def _stored(tier: Tier, key: str, shape: tuple[int, int]) -> int:
    """Bytes. Targets group weights each in its own way; that of ONNX stands for all."""
    if blocks := onnx_tiers.blocks(tier, key, shape):
        rows, groups, size = blocks.shape(*shape)
        return rows * groups * (size + 4)
    return 2 * shape[0] * shape[1]
