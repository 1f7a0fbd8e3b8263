"""The gate every export passes: each graph of each tier against the torch engine, on the same inputs.

The sizes tried would show a length baked in by mistake: the shortest and the longest of the profile, odd ones, one item
and two, with and without inpainting, padding masked both ways. Every comparison is of one call of one graph, so errors
do not add up as they do over the steps of a sampler; but for the round trip through both halves of the codec. The
codec hears music, never noise, and a step is given latents of music under noise, as a sampler would have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sa3_engines import graphs, likeness, tables
from sa3_engines.bundle import Profile
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Engine, Outputs
from sa3_engines.errors import ParityError
from sa3_engines.tiers import EXACT, FLOORS

Array = np.ndarray
# What `prepare` gives, named as the graphs name it, in the order of the reference's `Prepared`.
PREPARED = ("global_embed", "keys", "values", "local_embed")
LARGEST_ERROR = {EXACT: 1e-3}  # relative to the largest value; other tiers are held to their cosine alone
SEED = 20260529
PADDING_SECONDS = 6.0  # what the pipeline makes beyond the duration
LONGEST_CODED = 256  # latents: longer sounds are coded in windows
PIECE = 64  # latents of music that steps are given, and that go the round trip through the codec


@dataclass(frozen=True)
class Case:
    """One set of inputs for a graph. Those of a step are what `prepare` takes, and then x and the noise level."""

    size: str
    inputs: Outputs
    step: Outputs | None = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The worst over all cases."""

    cosine: float
    agreement: float  # what the floor is for: the cosine, and less where the size differs too
    snr_db: float
    relative_error: float
    sizes: tuple[str, ...]
    more: Mapping[str, float]


class Gate:
    """Asks the reference once, and then any number of candidates."""

    def __init__(self, reference: Engine, profile: Profile) -> None:
        self._reference = reference
        self._profile = profile
        self._expected: dict[str, list[tuple[Case, Mapping[str, Array]]]] = {}

    def compare(self, graph: str, candidate: Engine, tier: str = EXACT) -> Parity:
        """Raises ParityError where they differ by more than the tier promises. "round trip" stands for a graph that
        encodes and then decodes.
        """
        floor, limit = FLOORS[tier], LARGEST_ERROR.get(tier, math.inf)
        worst = Parity(cosine=1.0, agreement=1.0, snr_db=200.0, relative_error=0.0, sizes=(), more={})
        for case, expected in self._asked(graph):
            got = outputs(graph, candidate, case)
            for name, value in expected.items():
                found = _measure(value, got[name])
                if not (found.agreement >= floor and found.relative_error <= limit):  # NaN must not pass
                    raise ParityError(
                        f"{graph} at {case.size}: {name} differs from the torch engine: cosine {found.cosine:.6f}"
                        f"{_size(value, got[name]) if found.cosine >= floor else ''}, "
                        f"{found.relative_error:.2g} of the largest value ({found.snr_db:.0f} dB); {tier} asks for a "
                        f"cosine of {floor:g}" + (f" and at most {limit:g}" if limit < math.inf else "")
                    )
                worst = _worse(worst, found)
            worst = _worse(worst, replace(worst, more=_more(graph, expected, got)))
            worst = replace(worst, sizes=(*worst.sizes, case.size))
        return worst

    def _asked(self, graph: str) -> list[tuple[Case, Mapping[str, Array]]]:
        if graph not in self._expected:
            asked = cases(graph, self._reference, self._profile)
            self._expected[graph] = [(case, outputs(graph, self._reference, case)) for case in asked]
        return self._expected[graph]


def _more(graph: str, expected: Mapping[str, Array], got: Mapping[str, Array]) -> dict[str, float]:
    """Measures that mean something for one graph: the spread of latents, which shifts the loudness of everything
    after them, and how far the decoded music's spectrum moved."""
    match graph:
        case "encode":
            a, b = expected["latents"], got["latents"]
            spread = float(a.std()) or 1.0
            return {
                "latent_mean_shift": abs(float(b.mean() - a.mean())) / spread,
                "latent_spread_change": abs(float(b.std()) / spread - 1),
            }
        case "decode" | "round trip":
            return {"spectral_db": likeness.spectral_db(expected["audio"], got["audio"])}
        case "step":
            return {"velocity_spread_change": abs(float(got["velocity"].std() / expected["velocity"].std()) - 1)}
        case _:
            return {}


def _measure(expected: Array, got: Array) -> Parity:
    return Parity(
        cosine=likeness.cosine(expected, got),
        agreement=likeness.agreement(expected, got),
        snr_db=likeness.snr_db(expected, got),
        relative_error=likeness.relative_error(expected, got),
        sizes=(),
        more={},
    )


def _size(expected: Array, got: Array) -> str:
    return f" at {np.linalg.norm(got) / (np.linalg.norm(expected) or 1.0):.3g} times the size"


def _worse(a: Parity, b: Parity) -> Parity:
    more = {name: max(a.more.get(name, 0.0), b.more.get(name, 0.0)) for name in {**a.more, **b.more}}
    return Parity(
        cosine=min(a.cosine, b.cosine),
        agreement=min(a.agreement, b.agreement),
        snr_db=min(a.snr_db, b.snr_db),
        relative_error=max(a.relative_error, b.relative_error),
        sizes=a.sizes,
        more={name: value for name, value in more.items() if math.isfinite(value)},
    )


def outputs(graph: str, engine: Engine, case: Case) -> Mapping[str, Array]:
    """What an engine answers, by name."""
    match graph:
        case "prepare":
            return _prepared(engine.run("prepare", case.inputs))
        case "step":
            assert case.step is not None
            return engine.run("step", engine.run("prepare", case.inputs) | case.step)
        case "round trip":
            latents = np.asarray(engine.run("encode", case.inputs)["latents"], np.float32)
            return engine.run("decode", graphs.decode(engine.config, latents))
        case _:
            return engine.run(graph, case.inputs)


def _prepared(out: Mapping[str, Any]) -> Mapping[str, Array]:
    """What `prepare` gives is each engine's own affair; here both forms are known."""
    if "prepared" in out:
        return {name: value.float().cpu().numpy() for name, value in zip(PREPARED, out["prepared"], strict=True)}
    return {name: np.asarray(out[name]) for name in PREPARED}


def cases(graph: str, reference: Engine, profile: Profile) -> Iterator[Case]:
    """Seeded, so that a number in a manifest can be had again."""
    draw = np.random.Generator(np.random.SFC64(SEED))
    match graph:
        case "text":
            yield from _text(reference.config, draw)
        case "prepare" | "step":
            yield from _dit(reference, draw, profile, steps=graph == "step")
        case "round trip":
            latents = _filled(reference.config, PIECE)
            yield Case(
                f"batch 1, latents {latents}", graphs.encode(reference.config, _music(reference.config, 1, latents))
            )
        case _:
            yield from _half(graph, reference, profile)


def frames(config: ModelConfig, seconds: float) -> int:
    """Latents that the pipeline makes for a duration."""
    return max(1, math.ceil((seconds + PADDING_SECONDS) * config.sample_rate / config.ratio))


def _normal(draw: np.random.Generator, *shape: int) -> Array:
    return draw.standard_normal(shape, np.float32)


def _text(config: ModelConfig, draw: np.random.Generator) -> Iterator[Case]:
    assert config.text is not None
    for batch, tokens in ((1, 1), (1, 7), (2, 16), (1, config.text.max_tokens)):
        ids = draw.integers(0, config.text.vocab_size, (batch, tokens))
        mask = np.ones((batch, tokens), np.int64)
        if batch > 1:
            mask[1, tokens // 2 :] = 0
        yield Case(f"batch {batch}, tokens {tokens}", graphs.text(config.text, ids, mask))


def _dit(reference: Engine, draw: np.random.Generator, profile: Profile, *, steps: bool) -> Iterator[Case]:
    """Music under noise, from all noise to nearly none; contexts are what the text encoder says."""
    config = reference.config
    assert config.dit is not None
    dit = config.dit
    piece = _latents(reference, 2, PIECE)
    shortest, longest = (frames(config, s) for s in (profile.min_seconds - PADDING_SECONDS, profile.max_seconds))
    sizes = [
        (1, shortest, 2, False, None, 1.0),
        (1, 13, 5, False, None, 0.745547),
        (1, 13, 5, True, None, 0.273885),
        (2, 24, 9, True, "exclude", 0.512497),
        (2, 37, 3, False, "gate", 0.01),
        (1, longest, 12, not steps, None, 0.9),  # no length reaches `prepare` but with what is inpainted
    ]
    for batch, count, context, inpaint, masks, t in sizes:
        latents = piece[:batch, :, np.arange(count) % PIECE]  # it begins again where that is too short
        local = _local(latents) if inpaint else None
        inputs = graphs.prepare(
            config,
            count,
            _context(reference, draw, batch, context),
            _normal(draw, batch, dit.global_width),
            local,
        )
        if masks:
            valid = np.arange(count) < np.array([[count], [count - count // 3]])
            inputs |= graphs.padding_masks(config, valid, exclude=masks == "exclude")
            inputs["context_bias"] = np.log(draw.uniform(0.5, 200, (batch, context))).astype(np.float32)
        x = np.float32(1 - t) * latents + np.float32(t) * _normal(draw, *latents.shape)
        step: Outputs = {"x": x, "timestep": tables.timestep_features(np.full(batch, t, np.float32), dit)}
        kind = "inpainting" if inpaint else "text only"
        yield Case(f"batch {batch}, frames {count}, context {context}, {kind}, t {t:g}", inputs, step)


def _context(reference: Engine, draw: np.random.Generator, batch: int, count: int) -> Array:
    config = reference.config
    assert config.dit is not None
    if config.text is None or config.text.width != config.dit.context_width:
        return _normal(draw, batch, count, config.dit.context_width)
    ids = draw.integers(0, config.text.vocab_size, (batch, count))
    said = reference.run("text", graphs.text(config.text, ids, np.ones((batch, count), np.int64)))
    return np.asarray(said["hidden"], np.float32)


def _local(latents: Array) -> Array:
    """The first half is there, the second is to be made."""
    batch, _, count = latents.shape
    mask = (np.arange(count) < count // 2).astype(np.float32)
    return np.concatenate((np.broadcast_to(mask, (batch, 1, count)), latents * mask), axis=1)


def _half(graph: str, reference: Engine, profile: Profile) -> Iterator[Case]:
    config = reference.config
    c = config.autoencoder
    half = c.encoder if graph == "encode" else c.decoder
    longest = min(LONGEST_CODED, frames(config, profile.max_seconds - PADDING_SECONDS)) // half.latents_multiple
    draw = np.random.Generator(np.random.SFC64(SEED))
    for batch, chunks, noisy in ((1, 1, False), (1, 3, True), (2, 4, False), (1, max(longest, 2), False)):
        latents = chunks * half.latents_multiple
        if graph == "encode":
            noise = _normal(draw, batch, latents, 1, half.width) if noisy else None
            yield Case(
                f"batch {batch}, latents {latents}", graphs.encode(config, _music(config, batch, latents), noise)
            )
        else:
            noise = _normal(draw, batch, latents, half.stride, half.width) if noisy else None
            short = latents - (half.latents_multiple > 1 and chunks > 1)  # an odd number, filled up and gated
            z = _latents(reference, batch, latents)[:, :, :short]
            yield Case(f"batch {batch}, latents {short}", graphs.decode(config, z, noise))


def _filled(config: ModelConfig, latents: int) -> int:
    """So many that the encoder gives them in whole chunks."""
    multiple = config.autoencoder.encoder.latents_multiple
    return -(-latents // multiple) * multiple


def _music(config: ModelConfig, batch: int, latents: int) -> Array:
    """(batch, channels, samples); every item begins elsewhere in the piece."""
    samples, channels = latents * config.ratio, config.autoencoder.channels
    piece = likeness.music(config.sample_rate, (samples * batch + config.ratio) / config.sample_rate)
    piece = np.stack([piece[i % 2] for i in range(channels)])
    return np.stack([piece[:, i * samples : (i + 1) * samples] for i in range(batch)])


def _latents(reference: Engine, batch: int, latents: int) -> Array:
    """Of music, so that decoding them is a round trip."""
    config = reference.config
    out = reference.run("encode", graphs.encode(config, _music(config, batch, _filled(config, latents))))
    return np.ascontiguousarray(np.asarray(out["latents"], np.float32)[:, :, :latents])
