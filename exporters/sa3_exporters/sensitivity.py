"""Which layers of a model must stay fp32 in a tier, measured on its own weights:

    python -m sa3_exporters.sensitivity --model M --tier fast --out islands.json

Every linear layer is quantised alone, as the engines do it, inside the reference in fp32, which then answers about
music at several noise levels. Layers are ranked by the error they bring for the work they save, and the worst of them
stay fp32 until the whole graph keeps the tier's floor with a margin. `sa3-export --islands FILE` takes the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sa3_engines import graphs, likeness, models, tables
from sa3_engines.engine import Options
from sa3_engines.errors import Cancelled, InvalidRequest, OutputError, Sa3Error
from sa3_engines.models import Source
from sa3_engines.quantise import Blocks
from sa3_engines.tiers import COMPACT, FAST, FLOORS
from sa3_exporters import islands, onnx_tiers, placing
from stable_audio_3 import checkpoint
from stable_audio_3.engine import BACKEND as TORCH
from stable_audio_3.engine import TorchEngine

Array = np.ndarray
TYPES = {FAST: "int8", COMPACT: "int4"}
LEVELS = (1.0, 0.75, 0.5, 0.25, 0.05)
FRAMES, TOKENS = 16, 16
MARGIN = 0.5  # how much of what the floor allows may be used up: other prompts and lengths need the rest
MOST = 0.5  # of a graph's work in fp32: with more than that, the tier is not worth its name
_SEED = 20260529


@dataclass(frozen=True)
class Answer:
    """How near a graph's answer came to the reference's: the worst of the items asked about."""

    cosine: float
    snr_db: float


@dataclass(frozen=True)
class Layer:
    key: str  # the weight's name in the checkpoint
    work: float  # its share of the graph's multiplications
    cosine: float  # of the graph's answer with this layer alone quantised
    snr_db: float
    exact: bool = False

    @property
    def rank(self) -> float:
        """Error brought per work saved."""
        return 10 ** (-self.snr_db / 10) / self.work


@dataclass(frozen=True)
class Result:
    """One graph: with only the built-in islands in fp32, with those found besides, and every layer on its own."""

    before: Answer
    after: Answer
    keeps: bool
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Part:
    """A graph, its linear layers by their weights' names, and the question it is asked."""

    graph: str
    linears: Mapping[str, nn.Linear]
    ask: Callable[[], Array]  # one row per item


def parts(engine: TorchEngine, source: Source) -> list[Part]:
    """Text, transformer (`prepare` and `step` together), encoder and decoder."""
    config, networks = source.config, engine.networks
    standalone = config.dit is None
    linears: dict[str, nn.Linear] = {}
    for prefix, network in networks.parts():
        place = "" if standalone and prefix == checkpoint.AUTOENCODER else prefix
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear) and prefix != checkpoint.CONDITIONER:
                linears[f"{place}{name}.weight"] = module
    codec = "" if standalone else checkpoint.AUTOENCODER

    def of(prefix: str) -> dict[str, nn.Linear]:
        return {key: linear for key, linear in linears.items() if key.startswith(prefix)}

    draw = np.random.Generator(np.random.SFC64(_SEED))
    latents = _latents(engine)
    found = [
        Part("encode", of(codec + "encoder."), lambda: _encoded(engine)),
        Part("decode", of(codec + "decoder."), lambda: _run(engine, "decode", graphs.decode(config, latents))),
    ]
    if config.text is not None:
        ids = draw.integers(0, config.text.vocab_size, (2, TOKENS))
        text = graphs.text(config.text, ids, np.ones_like(ids))
        found.append(Part("text", of(checkpoint.TEXT), lambda: _run(engine, "text", text)))
    if config.dit is not None:
        found.append(Part("step", of(checkpoint.DIT), _step(engine, latents, draw)))
    return found


def _step(engine: TorchEngine, latents: Array, draw: np.random.Generator) -> Callable[[], Array]:
    """Music under noise of every level, one level to an item."""
    config = engine.config
    assert config.dit is not None
    levels, dit = np.array(LEVELS, np.float32), config.dit
    count = len(levels)
    context = draw.standard_normal((1, TOKENS, dit.context_width), np.float32)
    if config.text is not None and config.text.width == dit.context_width:
        ids = draw.integers(0, config.text.vocab_size, (1, TOKENS))
        context = _run(engine, "text", graphs.text(config.text, ids, np.ones_like(ids)))
    cond = draw.standard_normal((1, dit.global_width), np.float32)
    inputs = graphs.prepare(
        config, latents.shape[2], np.repeat(context, count, axis=0), np.repeat(cond, count, axis=0), None
    )
    t = levels[:, None, None]
    x = (1 - t) * latents + t * draw.standard_normal((count, *latents.shape[1:]), np.float32)
    step = {"x": x, "timestep": tables.timestep_features(levels, dit)}
    return lambda: engine.run("step", engine.run("prepare", inputs) | step)["velocity"]


def _latents(engine: TorchEngine) -> Array:
    return np.ascontiguousarray(_encoded(engine)[:, :, :FRAMES])


def _encoded(engine: TorchEngine) -> Array:
    config = engine.config
    multiple = graphs.encode_multiple(config)
    samples = -(-FRAMES * config.ratio // multiple) * multiple
    music = likeness.music(config.sample_rate, (samples + 1) / config.sample_rate)[:, :samples]
    channels = config.autoencoder.channels
    audio = np.stack([music[i % 2] for i in range(channels)])[None]
    return _run(engine, "encode", graphs.encode(config, audio))


def _run(engine: TorchEngine, graph: str, inputs: Mapping[str, Any]) -> Array:
    (out,) = engine.run(graph, inputs).values()
    return out


@contextlib.contextmanager
def quantised(linears: Iterable[tuple[nn.Linear, Blocks]]) -> Generator[None]:
    """Inside, these layers answer as the engines' quantised ones do."""
    changed: list[nn.Linear] = []
    try:
        for linear, blocks in linears:
            setattr(linear, "forward", _quantised(linear, blocks))  # noqa: B010
            changed.append(linear)
        yield
    finally:
        for linear in changed:
            del linear.forward


def _quantised(linear: nn.Linear, blocks: Blocks) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        # Made anew in every call: quicker than it is worth to hold a second copy of the model.
        stored, scale = blocks.store(linear.weight.numpy())
        weight = torch.from_numpy(blocks.restore(stored, scale, linear.in_features))
        return F.linear(activations(x, blocks.group), weight, linear.bias)

    return forward


def activations(x: Tensor, group: int) -> Tensor:
    """Eight bits with a scale for every group of every token."""
    columns = x.shape[-1]
    groups = F.pad(x, (0, -columns % group)).unflatten(-1, (-1, group))
    scale = (groups.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(1e-30)
    return (torch.round(groups / scale) * scale).flatten(-2)[..., :columns]


def compare(expected: Array, got: Array) -> Answer:
    """The worst item. What is not a number is as far away as can be."""
    pairs = list(zip(expected, got, strict=True))
    cosine, snr_db = (min(measure(a, b) for a, b in pairs) for measure in (likeness.cosine, likeness.snr_db))
    finite = bool(np.isfinite(got).all())
    return Answer(cosine, snr_db) if finite else Answer(-1.0, -200.0)


def work(part: Part) -> dict[str, float]:
    """Every layer's share of the multiplications when the graph answers once."""
    counted: dict[str, float] = dict.fromkeys(part.linears, 0.0)

    def count(key: str) -> Callable[..., None]:
        def hook(linear: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> None:
            counted[key] += given[0].numel() * linear.out_features

        return hook

    hooks = [linear.register_forward_hook(count(key)) for key, linear in part.linears.items()]
    try:
        part.ask()
    finally:
        for one in hooks:
            one.remove()
    whole = sum(counted.values()) or 1.0
    return {key: value / whole for key, value in counted.items() if value}


def measure(part: Part, tier: str, kept: Sequence[str], advance: Callable[[], object] = lambda: None) -> Result:
    """kept: patterns of the layers that stay fp32 whatever is found."""
    forms, floor = onnx_tiers.FORMS[TYPES[tier]], 1 - (1 - FLOORS[tier]) * MARGIN
    shares = work(part)
    free = [key for key in shares if not _matches(key, kept)]
    blocks = {key: next(form for part, form in forms.items() if re.search(part, key)) for key in free}
    expected = part.ask()

    def answer(keys: Iterable[str]) -> Answer:
        with quantised((part.linears[key], blocks[key]) for key in keys):
            return compare(expected, part.ask())

    layers: list[Layer] = []
    for key in free:
        alone = answer([key])
        layers.append(Layer(key, shares[key], alone.cosine, alone.snr_db))
        advance()
    layers.sort(key=lambda layer: -layer.rank)
    before = answer(free)
    count, after = _fewest([layer.key for layer in layers], answer, before, floor, _most(layers))
    exact = {layer.key for layer in layers[:count]}
    marked = tuple(Layer(one.key, one.work, one.cosine, one.snr_db, one.key in exact) for one in layers)
    return Result(before, after, after.cosine >= floor, marked)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, key) for pattern in patterns)


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
    if before.cosine >= floor:
        return 0, before
    low, high, found = 0, most, answer(ranked[most:])
    if found.cosine < floor:
        return most, found
    while high - low > 1:
        middle = (low + high) // 2
        tried = answer(ranked[middle:])
        if tried.cosine >= floor:
            high, found = middle, tried
        else:
            low = middle
    return high, found


def table(source: Source, tier: str, results: Mapping[str, Result]) -> dict[str, Any]:
    """What is written: first what the exporter reads, then what was measured."""
    added = [layer.key for result in results.values() for layer in result.layers if layer.exact]
    exact = [*islands.patterns("", tier), *(f"^{re.escape(key)}$" for key in added)]
    return {
        "tiers": {tier: {"exact": exact}},
        "model": source.name,
        "digest": placing.digest(source),
        "floor": FLOORS[tier],
        "margin": MARGIN,
        "levels": LEVELS,
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


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m sa3_exporters.sensitivity", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--model", required=True, metavar="M", help="a name, a folder, or random:NAME[:SEED]")
    p.add_argument("--tier", default=FAST, choices=tuple(TYPES))
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, for sa3-export --islands")
    p.add_argument("--threads", type=int, metavar="N")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return _main(args.model, args.tier, args.out, args.threads)
    except KeyboardInterrupt:
        sys.stderr.write("sensitivity: interrupted; nothing was written\n")
        return Cancelled.exit_code
    except Sa3Error as e:
        sys.stderr.write(f"sensitivity: {e}\n")
        return e.exit_code


def _main(model: str, tier: str, out: Path, threads: int | None) -> int:
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"{out} cannot be written: there is no folder {out.absolute().parent}")
    source = models.locate(model)
    engine = TORCH.open(source, Options(device="cpu", precision="fp32", threads=threads))
    kept = islands.patterns("", tier)
    results: dict[str, Result] = {}
    for part in parts(engine, source):
        free = sum(not _matches(key, kept) for key in part.linears)
        with tqdm(total=free, desc=part.graph, unit="layer", leave=False) as bar:
            results[part.graph] = measure(part, tier, kept, bar.update)
    try:
        unfinished = out.with_name(f".{out.name}.part")
        unfinished.write_text(json.dumps(table(source, tier, results), indent=1) + "\n", "utf-8")
        unfinished.replace(out)
    except OSError as e:
        raise OutputError(f"{out} cannot be written: {e.strerror}") from e
    for graph, result in results.items():
        sys.stdout.write(_line(graph, result, tier) + "\n")
    return 0 if all(result.keeps for result in results.values()) else Sa3Error.exit_code


def _line(graph: str, result: Result, tier: str) -> str:
    found = [layer for layer in result.layers if layer.exact]
    share = sum(layer.work for layer in found)
    text = f"{graph:<7} {result.before.snr_db:5.1f} dB, cosine {result.before.cosine:.5f}"
    if found:
        text += f"; with {len(found)} layers in fp32 ({share:.1%} of the work) {result.after.cosine:.5f}"
    if not result.keeps:
        text += f": {tier} cannot keep {FLOORS[tier]:g} with a margin here with half of the work in fp32; leave it out"
    return text


if __name__ == "__main__":
    sys.exit(main())
