"""The seam: five graphs that every engine runs, numpy arrays in and out. It knows nothing of prompts, seeds or files.

    text     ids (B,n) int64, mask_bias (B,n), rope_cos, rope_sin
             -> hidden (B,n,W)
    prepare  context (B,S,W), global_cond (B,W), local (B,C+1,T or 1), rope_cos, rope_sin,
             [context_bias (B,S); key_bias, value_gate, out_gate (B,M+T)]
             -> what `step` takes besides x and timestep: opaque, the engine's own
    step     x (B,C,T), timestep (B,F), and all that `prepare` gave
             -> velocity (B,C,T)
    encode   audio (B,2,N), rope_cos, rope_sin, [token_noise (B,n,1,D)]
             -> latents (B,C,n)
    decode   latents (B,C,n), rope_cos, rope_sin, [frame_gate (B,n), token_noise (B,n,stride,D)]
             -> audio (B,2,N)

Arrays are float32 unless said otherwise; those in brackets may be left out. B is the batch, T and n latents, M memory
tokens. `prepare` does everything that does not change over the sampling steps; its results may live on a device and
only mean something to the engine that made them. One frame of `local` stands for all: nothing is inpainted.
Rotary tables and Fourier features come from `sa3_engines.tables`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from sa3_engines.config import ModelConfig
from sa3_engines.errors import InvalidRequest
from sa3_engines.tiers import EXACT

if TYPE_CHECKING:
    from sa3_engines.adapters import ActiveAdapter
    from sa3_engines.models import Source

CODEC = ("encode", "decode")  # all that an autoencoder alone has
GRAPHS = ("text", "prepare", "step", *CODEC)
MEMORY = ("normal", "low")
THREADS_A_CORE = 8  # more than one only slows down; far more, and nothing comes out in an hour

Inputs = Mapping[str, Any]
Outputs = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Support:
    """What an open engine is and can do; the pipeline asks before it plans."""

    backend: str
    device: str
    precision: str  # the number type
    tier: str = EXACT  # the promise it keeps
    graphs: frozenset[str]
    max_batch: int | None = None  # None: any
    latents: tuple[int, ...] | None = None  # the ladder of latent lengths; None: any
    seconds: tuple[float, float] | None = None  # the durations it was exported and compared for; None: any
    token_noise: bool = True  # whether encode and decode can add the reference's noise
    adapters: bool = False
    versions: Mapping[str, str]


class Engine(Protocol):
    """An open model on one device."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def support(self) -> Support: ...
    def constants(self) -> Mapping[str, np.ndarray]:
        """The conditioners' own few weights, applied on the host: padding_embedding, seconds.weight, seconds.bias."""
        ...

    def run(self, graph: str, inputs: Inputs) -> Outputs: ...
    def close(self) -> None: ...


@runtime_checkable
class Adaptable(Protocol):
    """An engine that can run with adapters. Setting them makes earlier `prepare` results stale."""

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        """The transformer's modules an adapter may change, named as adapters name them, and their (out, in)."""
        ...

    def set_adapters(self, adapters: Sequence[ActiveAdapter]) -> None: ...


@runtime_checkable
class Releasing(Protocol):
    """An engine that can let go of graphs while it stays open. One that is asked for again is made ready again."""

    def release(self, graphs: Collection[str]) -> None: ...


def release(engine: Engine, *graphs: str) -> None:
    """Gives back what graphs hold that are done with, from engines that can."""
    if isinstance(engine, Releasing):
        engine.release(graphs)


@runtime_checkable
class Opening(Protocol):
    """An engine that can make graphs ready beside other work."""

    def open_ahead(self, graphs: Collection[str]) -> None:
        """Begins with the first and returns at once. What goes wrong is tried again when the graph is run."""
        ...


def open_ahead(engine: Engine, *graphs: str) -> None:
    """Tells engines that can use it which graphs will be run soon; those that take longest come first."""
    if isinstance(engine, Opening):
        engine.open_ahead(graphs)


@dataclass(frozen=True)
class Ran:
    """One operation of a graph, by the runtime's own account."""

    operation: str
    kernel: str  # what carried it out: an implementation, or where it ran
    seconds: float


@runtime_checkable
class Profiled(Protocol):
    """An engine that can tell where a run's time goes."""

    def profile(self, graph: str, inputs: Inputs) -> Sequence[Ran]:
        """Every operation of one warm run, which is slower for being watched."""
        ...


def most_threads() -> int:
    return THREADS_A_CORE * (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to open a model. `auto` leaves the choice to the backend, which then says what it took."""

    device: str = "auto"
    precision: str = "auto"  # a tier or a number type, see `tiers`
    threads: int | None = None
    memory: str = "normal"  # low: one network in memory at a time, in the smallest tier unless one is named

    def __post_init__(self) -> None:
        device: Any = self.device  # what a caller passed, whatever the annotation says
        if not isinstance(device, str):
            raise InvalidRequest(f"device {device!r}; a name was expected, such as cpu or cuda, or auto")
        if self.memory not in MEMORY:
            raise InvalidRequest(f"memory {self.memory!r}; choose from {', '.join(MEMORY)}")
        threads: Any = self.threads
        most = most_threads()
        if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
            raise InvalidRequest(f"threads {threads!r}; it must be a whole number from 1 to {most} on this machine")


class Backend(Protocol):
    """One file per backend, found by name. Its SDK is imported inside the methods only."""

    name: str

    def why_not(self, device: str = "auto") -> str | None:
        """None when usable here; else a reason fit to show a user, with the fix."""
        ...

    def why_not_open(self, source: Source, precision: str = "auto") -> str | None:
        """None when this kind of model (checkpoint, bundle, random) can be opened; else why not, and what to do for
        one in that precision."""
        ...

    def open(self, source: Source, options: Options) -> Engine: ...
    def versions(self) -> Mapping[str, str]: ...
    def devices(self) -> Sequence[str]: ...
