"""The gate every export passes: each graph against the torch engine, on the same inputs, at sizes that would show a
length baked in by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa3_engines import graphs, tables
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Engine, Outputs
from sa3_engines.errors import ParityError
from sa3_exporters.onnx import PREPARED

Array = np.ndarray
LARGEST_ERROR = {"fp32": 1e-3}


@dataclass(frozen=True)
class Case:
    """One set of inputs for a graph. Those of a step are what `prepare` takes, and then x and the noise level."""

    size: str
    inputs: Outputs
    step: Outputs | None = None


@dataclass(frozen=True)
class Parity:
    """The worst over all cases."""

    snr_db: float
    relative_error: float
    sizes: tuple[str, ...]


def compare(graph: str, reference: Engine, candidate: Engine, precision: str = "fp32") -> Parity:
    """Raises ParityError where they differ by more than the precision explains."""
    limit = LARGEST_ERROR[precision]
    worst_db, worst_error, sizes = math.inf, 0.0, list[str]()
    for case in cases(graph, reference.config):
        expected, got = _outputs(graph, reference, case), _outputs(graph, candidate, case)
        for name, value in expected.items():
            db, error = snr_db(value, got[name]), relative_error(value, got[name])
            if not error <= limit:  # and not "error > limit", which NaN would pass
                raise ParityError(
                    f"{graph} at {case.size}: {name} differs from the torch engine by {error:.2g} of its largest "
                    f"value ({db:.0f} dB), and {precision} allows {limit:g}; nothing was published"
                )
            worst_db, worst_error = min(worst_db, db), max(worst_error, error)
        sizes.append(case.size)
    return Parity(worst_db, worst_error, tuple(sizes))


def snr_db(expected: Array, got: Array) -> float:
    if expected.shape != got.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return math.nan
    noise = float(np.square(np.subtract(got, expected, dtype=np.float64)).sum())
    signal = float(np.square(expected, dtype=np.float64).sum())
    return min(10 * math.log10(signal / noise), 200.0) if noise and signal else (200.0 if not noise else -200.0)


def relative_error(expected: Array, got: Array) -> float:
    """The largest difference as a share of the largest value; NaN where the shapes or a value are wrong."""
    if expected.shape != got.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return math.nan
    largest = float(np.abs(expected).max())
    return float(np.abs(got - expected).max()) / (largest or 1.0)


def _outputs(graph: str, engine: Engine, case: Case) -> Mapping[str, Array]:
    if graph == "step":
        assert case.step is not None
        return engine.run("step", engine.run("prepare", case.inputs) | case.step)
    out = engine.run(graph, case.inputs)
    return _prepared(out) if graph == "prepare" else out


def _prepared(out: Mapping[str, Any]) -> Mapping[str, Array]:
    """What `prepare` gives is each engine's own affair; here both forms are known."""
    if "prepared" in out:
        return {name: value.float().cpu().numpy() for name, value in zip(PREPARED, out["prepared"], strict=True)}
    return {name: out[name] for name in PREPARED}


def cases(graph: str, config: ModelConfig) -> Iterator[Case]:
    """Seeded, so that a number in a manifest can be had again."""
    draw = np.random.Generator(np.random.SFC64(20260529))
    match graph:
        case "text":
            yield from _text(config, draw)
        case "prepare" | "step":
            yield from _dit(config, draw)
        case _:
            yield from _half(graph, config, draw)


def _normal(draw: np.random.Generator, *shape: int) -> Array:
    return draw.standard_normal(shape, np.float32)


def _text(config: ModelConfig, draw: np.random.Generator) -> Iterator[Case]:
    assert config.text is not None
    for batch, tokens in ((1, 1), (1, 7), (2, 16)):
        ids = draw.integers(0, config.text.vocab_size, (batch, tokens))
        mask = np.ones((batch, tokens), np.int64)
        if batch > 1:
            mask[1, tokens // 2 :] = 0
        yield Case(f"batch {batch}, tokens {tokens}", graphs.text(config.text, ids, mask))


def _dit(config: ModelConfig, draw: np.random.Generator) -> Iterator[Case]:
    """With and without inpainting, padding masked both ways, one frame to many, noise levels from 1 to nearly 0."""
    assert config.dit is not None
    dit = config.dit
    for batch, frames, context, inpaint, masks, t in (
        (1, 1, 2, False, None, 1.0),
        (1, 13, 5, False, None, 0.745547),
        (1, 13, 5, True, None, 0.273885),
        (2, 24, 9, True, "exclude", 0.512497),
        (2, 37, 3, False, "gate", 0.01),
    ):
        local = _local(config, draw, batch, frames) if inpaint else None
        inputs = graphs.prepare(
            config,
            frames,
            _normal(draw, batch, context, dit.context_width),
            _normal(draw, batch, dit.global_width),
            local,
        )
        if masks:
            valid = np.arange(frames) < np.array([[frames], [frames - frames // 3]])
            inputs |= graphs.padding_masks(config, valid, exclude=masks == "exclude")
            inputs["context_bias"] = np.log(draw.uniform(0.5, 200, (batch, context))).astype(np.float32)
        x, levels = _normal(draw, batch, dit.channels, frames), np.full(batch, t, np.float32)
        step: Outputs = {"x": x, "timestep": tables.timestep_features(levels, dit)}
        kind = "inpainting" if inpaint else "text only"
        yield Case(f"batch {batch}, frames {frames}, context {context}, {kind}, t {t:g}", inputs, step)


def _local(config: ModelConfig, draw: np.random.Generator, batch: int, frames: int) -> Array:
    assert config.dit is not None
    mask = (np.arange(frames) < frames // 2).astype(np.float32)
    latents = _normal(draw, batch, config.dit.channels, frames) * mask
    return np.concatenate((np.broadcast_to(mask, (batch, 1, frames)), latents), axis=1)


def _half(graph: str, config: ModelConfig, draw: np.random.Generator) -> Iterator[Case]:
    c = config.autoencoder
    half = c.encoder if graph == "encode" else c.decoder
    for batch, chunks, noisy in ((1, 1, False), (1, 3, True), (2, 4, False)):
        latents = chunks * half.latents_multiple
        if graph == "encode":
            audio = 0.2 * _normal(draw, batch, c.channels, latents * c.ratio)
            noise = _normal(draw, batch, latents, 1, half.width) if noisy else None
            yield Case(f"batch {batch}, latents {latents}", graphs.encode(config, audio, noise))
        else:
            noise = _normal(draw, batch, latents, half.stride, half.width) if noisy else None
            short = latents - (half.latents_multiple > 1 and chunks > 1)  # an odd number, filled up and gated
            z = _normal(draw, batch, c.latent_channels, short)
            yield Case(f"batch {batch}, latents {short}", graphs.decode(config, z, noise))
