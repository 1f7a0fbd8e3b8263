"""What each target makes of a model's weights, for whoever has to know it without converting a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sa3_engines.config import ModelConfig
from sa3_engines.filling import TABLE, graph_of
from sa3_engines.tiers import BITS
from sa3_exporters import onnx_tiers, openvino
from sa3_exporters.targets import Form, Tier
from stable_audio_3 import checkpoint

# By the graph, the tier, a linear layer's weight's name and its shape; None where the layer stays as it is.
MakesForm = Callable[[str, Tier, str, tuple[int, int]], Form | None]
FORMS: Mapping[str, MakesForm] = {"onnx": onnx_tiers.form, "openvino": openvino.form}
# Targets whose rewritten graphs have all their weights in a file of their own; others read from the checkpoint's files
# what stays as it is there.
WITH_ALL = ("openvino",)


@dataclass(frozen=True)
class Held:
    """A weight of a graph."""

    graph: str
    key: str  # its name in the checkpoint
    numbers: int
    form: Form | None  # None: it stays as it is


def held(config: ModelConfig, graphs: Sequence[str], target: str, tier: Tier) -> Iterator[Held]:
    """All weights of some graphs, in a tier."""
    with torch.device("meta"):
        networks = checkpoint.build(config)
    for prefix, part in networks.parts():
        linears = {f"{name}.weight": module for name, module in part.named_modules() if isinstance(module, nn.Linear)}
        place = "" if config.dit is None else prefix
        for name, tensor in part.state_dict().items():
            graph, key, form = _graph(prefix, name), place + name, None
            if graph is None or graph not in graphs:
                continue
            if name in linears:
                shape = linears[name].out_features, linears[name].in_features
                form = FORMS[target](graph, tier, key, shape)
            yield Held(graph, key, tensor.numel(), form)


def number_type(config: ModelConfig, graphs: Sequence[str], target: str, tier: Tier) -> str:
    """The smallest that is among a tier's weights: a model may have no layer that the tier's own is for."""
    types = (one.form.type for one in held(config, graphs, target, tier) if one.form is not None)
    return min(types, key=lambda kind: BITS[kind], default="fp32")


def _graph(prefix: str, name: str) -> str | None:
    """The graph that a weight is in, if any: the host looks up embeddings, and applies conditioners."""
    match prefix:
        case checkpoint.TEXT:
            return "text" if prefix + name != TABLE else None
        case checkpoint.DIT:
            return graph_of(prefix + name)
        case checkpoint.AUTOENCODER:
            return {"encoder": "encode", "decoder": "decode"}.get(name.partition(".")[0])
        case _:
            return None
