"""What an export target is, and where each is found: one file per target, whose `TARGET` is registered under its name.

A target turns one graph into files for one tier, and opens them again so that they can be compared. It knows nothing of
manifests, staging or floors: those are `build`'s and `parity`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from sa3_engines.config import ModelConfig
from sa3_engines.engine import Engine
from sa3_engines.errors import InvalidRequest
from sa3_engines.tensors import Stored
from sa3_engines.tiers import EXACT

Array = np.ndarray
NAMES = ("onnx", "openvino")


@dataclass(frozen=True)
class Weight:
    """A tensor of the bundle's files; location is the file's name relative to the graphs."""

    location: str
    stored: Stored


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One tier as a target makes it on this machine."""

    name: str  # exact, high, fast, compact
    type: str  # fp32, bf16, fp16, int8, int4
    instructions: tuple[str, ...] = ()  # what a processor needs to run it: names as in `sa3_engines.processor`
    exact: tuple[str, ...] = ()  # patterns (re.search) of the weights whose layers stay fp32


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a conversion may use. `folder` holds the checkpoint's files, and takes the graphs."""

    folder: Path
    config: ModelConfig
    networks: Any  # stable_audio_3.checkpoint.Networks on the meta device: structure without weights
    weights: Mapping[str, Weight]  # every tensor of the checkpoint by its name there
    known: Mapping[str, Path] = field(default_factory=dict[str, Path])  # exact ONNX graphs that need no tracing
    shared: dict[str, Any] = field(default_factory=dict[str, Any])  # a target's own, kept from one tier to the next


@dataclass(frozen=True)
class Form:
    """What a tier makes of one linear layer, as far as it can be told without its engine."""

    type: str  # the number type of the weight
    size: int  # bytes that it takes
    rounded: Callable[[Array], Array]  # the weight in fp32, as it is once it was stored
    group: int | None = None  # columns of activations that share a scale, where the engine makes bytes of them
    around: str = "fp32"  # the number type in which the layer takes its input and gives its output


class Target(Protocol):
    name: str
    backends: tuple[str, ...]  # engines that run what it makes
    tools: tuple[str, ...]  # packages whose versions decide what is in a graph
    sources: tuple[Path, ...]  # files of ours that decide it

    def why_not(self) -> str | None:
        """None when it can export here; else a reason fit to show a user, with the fix."""
        ...

    def tiers(self, islands: Path | None = None) -> Mapping[str, Tier | str]:
        """For every tier what this target would make here, or why it cannot. islands: the user's own table of the
        layers that stay fp32, as `sa3_exporters.sensitivity` writes it; None takes the built-in one."""
        ...

    def convert(self, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        """Writes one graph for one tier. Returns the names of its files in the folder, the one to open first; files
        may be shared between tiers."""
        ...

    def open(self, work: Work, tier: Tier, files: Mapping[str, str]) -> Engine:
        """An engine that runs these graphs (name -> first file) in the staged folder, before a manifest exists."""
        ...


def load(name: str) -> Target:
    if name not in NAMES:
        raise InvalidRequest(f"no target {name!r}; choose from {', '.join(NAMES)}")
    return cast("Target", import_module(f"sa3_exporters.{name}").TARGET)


def exact(target: Target) -> Tier:
    """The tier that every target has."""
    found = target.tiers()[EXACT]
    assert isinstance(found, Tier)
    return found
