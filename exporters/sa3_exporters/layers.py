"""What each layer costs a tier, measured on a model's own weights; `sensitivity` is the command.

Every linear layer is put alone into the form that the target gives it, inside the reference in fp32, which then answers
what the gate of exports asks. Layers are ranked by the error they bring for the work they save, and the worst of them
stay fp32 until the whole graph keeps the tier's floor with a margin.

Judged are weights, what a layer takes and gives in half precision, and what it takes in bytes. Not what half precision
does between layers, in attention above all: of `high` the gate finds 1 to 3 dB more error, and has the last word.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sa3_engines import likeness
from sa3_engines.models import Source
from sa3_engines.tiers import FLOORS
from sa3_exporters import parity, placing
from sa3_exporters.build import Recipe
from sa3_exporters.forms import MakesForm
from sa3_exporters.parity import Case
from sa3_exporters.targets import Form, Tier
from stable_audio_3 import checkpoint
from stable_audio_3.engine import TorchEngine

Array = np.ndarray
Watch = Callable[[Iterable[str]], Iterable[str]]  # draws how far a walk through layers has come
MARGIN = 0.5  # how much of what the floor allows may be used up: other prompts and lengths need the rest
MOST = 0.5  # of the transformer's work in fp32: with more than that, the tier is not worth its name
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
TRANSFORMER = ("prepare", "step")  # any other graph may stay fp32 as a whole


@dataclass(frozen=True)
class Answer:
    """How near a graph's answer came to the reference's: the worst of all cases."""

    agreement: float
    snr_db: float


@dataclass(frozen=True)
class Layer:
    key: str  # the weight's name in the checkpoint
    work: float  # its share of the graph's multiplications
    agreement: float  # of the graph's answer with this layer alone in the tier's form
    snr_db: float
    exact: bool = False

    @property
    def rank(self) -> float:
        """Error brought per work saved."""
        return 10 ** (-self.snr_db / 10) / self.work


@dataclass(frozen=True)
class Result:
    """One graph: with only the layers in fp32 that were known before, with those found besides, and every layer on
    its own."""

    before: Answer
    after: Answer
    keeps: bool
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Part:
    """A graph, what it is asked, and the model's linear layers by their weights' names."""

    graph: str
    cases: Sequence[Case]
    linears: Mapping[str, nn.Linear]
    ask: Callable[[Case], list[Array]]


def parts(engine: TorchEngine, recipe: Recipe) -> Iterator[Part]:
    """Every graph with the gate's own cases."""
    assert recipe.profile is not None
    found = linears(engine)
    for graph in recipe.graphs:
        cases = list(parity.cases(graph, engine, recipe.profile))
        yield Part(graph, cases, found, lambda case, graph=graph: list(parity.outputs(graph, engine, case).values()))


def linears(engine: TorchEngine) -> dict[str, nn.Linear]:
    standalone = engine.config.dit is None
    found: dict[str, nn.Linear] = {}
    for prefix, network in engine.networks.parts():
        place = "" if standalone and prefix == checkpoint.AUTOENCODER else prefix
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):
                found[f"{place}{name}.weight"] = module
    return found


@contextlib.contextmanager
def formed(chosen: Iterable[tuple[nn.Linear, Form]]) -> Generator[None]:
    """Inside, these layers answer as a tier's do."""
    with contextlib.ExitStack() as restored:
        for linear, form in chosen:
            # Made anew in every call: quicker than it is worth to hold a second copy of the model.
            parametrize.register_parametrization(linear, "weight", Rounded(form), unsafe=True)
            restored.callback(parametrize.remove_parametrizations, linear, "weight", leave_parametrized=False)
            if form.around in HALF:
                restored.callback(linear.register_forward_pre_hook(_taking(HALF[form.around])).remove)
                restored.callback(linear.register_forward_hook(_giving(HALF[form.around])).remove)
            if form.group is not None:
                restored.callback(linear.register_forward_pre_hook(_in_bytes(form.group)).remove)
        yield


class Rounded(nn.Module):
    """What a weight is once a tier has stored it."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def forward(self, weight: Tensor) -> Tensor:
        return torch.from_numpy(self._form.rounded(weight.numpy()))


def _taking(kind: torch.dtype) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, given: given[0].to(kind).float()


def _giving(kind: torch.dtype) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, given, made: made.to(kind).float()


def _in_bytes(group: int) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, given: activations(given[0], group)


def activations(x: Tensor, group: int) -> Tensor:
    """Eight bits with a scale for every group of every token."""
    columns = x.shape[-1]
    groups = F.pad(x, (0, -columns % group)).unflatten(-1, (-1, group))
    scale = (groups.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(1e-30)
    return (torch.round(groups / scale) * scale).flatten(-2)[..., :columns]


def compare(expected: Iterable[Sequence[Array]], got: Iterable[Sequence[Array]]) -> Answer:
    """The worst of all. What is not a number is as far away as can be."""
    pairs = [pair for cases in zip(expected, got, strict=True) for pair in zip(*cases, strict=True)]
    agreement, snr_db = ([measure(a, b) for a, b in pairs] for measure in (likeness.agreement, likeness.snr_db))
    return Answer(min(agreement), min(snr_db)) if np.isfinite(agreement).all() else Answer(-1.0, -200.0)


def work(part: Part) -> dict[str, float]:
    """The layers that have a hand in the graph's answer, and their shares of its multiplications."""
    counted: dict[str, float] = dict.fromkeys(part.linears, 0.0)

    def count(key: str) -> Callable[..., None]:
        def hook(linear: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> None:
            counted[key] += given[0].numel() * linear.out_features

        return hook

    hooks = [linear.register_forward_hook(count(key)) for key, linear in part.linears.items()]
    try:
        for case in part.cases:
            part.ask(case)
    finally:
        for one in hooks:
            one.remove()
    whole = sum(counted.values()) or 1.0
    return {key: value / whole for key, value in counted.items() if value}


def measure(part: Part, make: MakesForm, tier: Tier, watch: Watch) -> Result:
    floor = 1 - (1 - FLOORS[tier.name]) * MARGIN
    shares = work(part)
    forms: dict[str, Form] = {}
    for key in shares:
        linear = part.linears[key]
        if form := make(part.graph, tier, key, (linear.out_features, linear.in_features)):
            forms[key] = form
    expected = [part.ask(case) for case in part.cases]

    def answer(keys: Iterable[str], cases: Sequence[int] = range(len(expected))) -> Answer:
        with formed((part.linears[key], forms[key]) for key in keys):
            return compare([expected[i] for i in cases], [part.ask(part.cases[i]) for i in cases])

    # The largest case takes most of the time. What stays fp32 is chosen with it, in what order it is tried without.
    small = sorted(range(len(expected)), key=lambda i: expected[i][0].size)[:-1]
    layers: list[Layer] = []
    for key in watch(forms):
        alone = answer([key], small)
        layers.append(Layer(key, shares[key], alone.agreement, alone.snr_db))
    layers.sort(key=lambda layer: -layer.rank)
    before = answer(forms)
    most = _most(layers) if part.graph in TRANSFORMER else len(layers)
    count, after = _fewest([layer.key for layer in layers], answer, before, floor, most)
    marked = tuple(replace(layer, exact=i < count) for i, layer in enumerate(layers))
    return Result(before, after, after.agreement >= floor, marked)


def _most(layers: Sequence[Layer]) -> int:
    """How many of the first layers may stay fp32."""
    total, limit = 0.0, MOST * sum(layer.work for layer in layers)
    for count, layer in enumerate(layers):
        total += layer.work
        if total > limit:
            return count
    return len(layers)


def _fewest(
    ranked: Sequence[str], answer: Callable[[Sequence[str]], Answer], before: Answer, floor: float, most: int
) -> tuple[int, Answer]:
    """How many of the first layers must stay fp32 for the floor, and the answer then; with `most` it may still fail."""
    if before.agreement >= floor:
        return 0, before
    low, high, found = 0, most, answer(ranked[most:])
    if found.agreement < floor:
        return most, found
    while high - low > 1:
        middle = (low + high) // 2
        tried = answer(ranked[middle:])
        if tried.agreement >= floor:
            high, found = middle, tried
        else:
            low = middle
    return high, found


def with_islands(tier: Tier, result: Result) -> Tier:
    found = (f"^{re.escape(layer.key)}$" for layer in result.layers if layer.exact)
    return replace(tier, exact=(*tier.exact, *found))


def table(source: Source, target: str, tier: Tier, results: Mapping[str, Result]) -> dict[str, Any]:
    """What is written: first what the exporter reads, then what was measured."""
    return {
        "targets": {target: {tier.name: {"exact": tier.exact}}},
        "model": source.name,
        "digest": placing.digest(source),
        "floor": FLOORS[tier.name],
        "margin": MARGIN,
        "measured": {graph: _rounded(asdict(result)) for graph, result in results.items()},
    }


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case float():
            return float(f"{value:.7g}") if math.isfinite(value) else None
        case _:
            return value
