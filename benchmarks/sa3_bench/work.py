"""What a graph has to do: floating-point operations and the bytes that must move, from the shapes it was called with.

Counted are matrix products, attention and convolutions, a multiply and an add as two; bytes are the weights once per
call, and what goes in and out. A lower bound on both: norms, activations and what spills are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sa3_engines.config import DiTConfig, ModelConfig, ResamplerConfig, TextConfig

SIZES: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "w8a8": 1}
TRANSFORMER = ("prepare", "step")  # the graphs whose precision a tier changes; the rest is fp32


@dataclass(frozen=True)
class Product:
    """One kind of matrix product: `times` of (rows, inner) by (inner, columns)."""

    rows: int
    inner: int
    columns: int
    times: int = 1
    weight: bool = True  # the second factor is the model's, and is read from memory


@dataclass(frozen=True, kw_only=True)
class Work:
    flops: int
    bytes: int


Sizes = Mapping[str, int]


def sizes(graph: str, inputs: Mapping[str, Any], prepared: Sizes) -> dict[str, int]:
    """The lengths that matter of a call; prepared: those of the `prepare` before it, which a step's inputs hide."""
    match graph:
        case "text":
            items, tokens = inputs["ids"].shape
            return {"items": items, "tokens": tokens}
        case "prepare":
            items, context, _ = inputs["context"].shape
            return {"items": items, "context": context, "local": inputs["local"].shape[2]}
        case "step":
            items, _, latents = inputs["x"].shape
            return {"items": items, "latents": latents, "context": prepared["context"], "local": prepared["local"]}
        case "encode":
            items, _, samples = inputs["audio"].shape
            return {"items": items, "samples": samples}
        case _:
            items, _, latents = inputs["latents"].shape
            return {"items": items, "latents": latents}


def count(config: ModelConfig, graph: str, s: Sizes, precision: str = "fp32") -> Work:
    products = list(_products(config, graph, s))
    size = SIZES.get(precision, 4) if graph in TRANSFORMER else 4
    flops = sum(2 * p.rows * p.inner * p.columns * p.times for p in products)
    weights = sum(p.inner * p.columns * p.times for p in products if p.weight)
    return Work(flops=flops * s["items"], bytes=weights * size + 4 * s["items"] * _through(config, graph, s))


def _products(config: ModelConfig, graph: str, s: Sizes) -> Iterator[Product]:
    """Of one item."""
    ae = config.autoencoder
    match graph:
        case "text":
            assert config.text is not None
            yield from _text(config.text, s["tokens"])
        case "prepare":
            assert config.dit is not None
            yield from _prepare(config.dit, s["context"], s["local"])
        case "step":
            assert config.dit is not None
            yield from _step(config.dit, s["latents"], s["context"])
        case "encode":
            latents = s["samples"] // config.ratio
            yield Product(latents * ae.encoder.stride, ae.channels * ae.patch * ae.encoder.kernel, ae.encoder.width)
            yield from _resampler(ae.encoder, latents)
            yield Product(latents, ae.encoder.width, ae.latent_channels)
        case _:
            latents = s["latents"]
            yield Product(latents, ae.latent_channels, ae.decoder.width)
            yield from _resampler(ae.decoder, latents)
            yield Product(latents * ae.decoder.stride, ae.decoder.width * ae.decoder.kernel, ae.channels * ae.patch)


def _through(config: ModelConfig, graph: str, s: Sizes) -> int:
    """Values in and out, of one item."""
    ae, dit, text = config.autoencoder, config.dit, config.text
    match graph:
        case "text":
            assert text is not None
            return 2 * s["tokens"] * text.width
        case "prepare":
            assert dit is not None
            kept = dit.depth * (_pairs(dit) + 1) * s["context"] * dit.width + dit.depth * s["local"] * dit.width
            return s["context"] * dit.context_width + s["local"] * dit.local_width + kept
        case "step":
            assert dit is not None
            kept = dit.depth * (_pairs(dit) + 1) * s["context"] * dit.width + dit.depth * s["local"] * dit.width
            return 2 * s["latents"] * dit.channels + kept
        case "encode":
            return s["samples"] * ae.channels + s["samples"] // config.ratio * ae.latent_channels
        case _:
            return s["latents"] * (ae.latent_channels + config.ratio * ae.channels)


def _pairs(dit: DiTConfig) -> int:
    """Differential attention is two attentions over one value."""
    return 2 if dit.differential else 1


def _attention(queries: int, keys: int, width: int, times: int) -> Iterator[Product]:
    """Scores, and values weighed with them, over all heads."""
    yield Product(queries, width, keys, times, weight=False)
    yield Product(queries, keys, width, times, weight=False)


def _text(c: TextConfig, tokens: int) -> Iterator[Product]:
    yield Product(tokens, c.width, (c.heads + 2 * c.kv_heads) * c.head_dim, c.depth)
    yield from _attention(tokens, tokens, c.heads * c.head_dim, c.depth)
    yield Product(tokens, c.heads * c.head_dim, c.width, c.depth)
    yield Product(tokens, c.width, c.ff_width, 3 * c.depth)


def _mlp(rows: int, width_in: int, width: int, width_out: int, times: int = 1) -> Iterator[Product]:
    yield Product(rows, width_in, width, times)
    yield Product(rows, width, width_out, times)


def _prepare(c: DiTConfig, context: int, local: int) -> Iterator[Product]:
    yield from _mlp(context, c.context_width, c.width, c.width)
    yield from _mlp(1, c.global_width, c.width, c.width)
    yield Product(context, c.width, (_pairs(c) + 1) * c.width, c.depth)
    yield from _mlp(local, c.local_width, c.width, c.width, c.depth)


def _step(c: DiTConfig, latents: int, context: int) -> Iterator[Product]:
    both, pairs, width = c.memory_tokens + latents, _pairs(c), c.width
    yield from _mlp(1, c.timestep_features, width, width)
    yield from _mlp(1, width, width, 6 * width)
    yield Product(latents, c.channels, c.channels, 2)  # the convolutions before and after
    yield Product(latents, c.channels, width, 2)  # in and out
    yield Product(both, width, (2 * pairs + 1) * width, c.depth)
    yield from _attention(both, both, width, pairs * c.depth)
    yield Product(both, width, width, c.depth)
    # The last block goes on without the memory tokens.
    yield from _second_half(c, both, context, c.depth - 1)
    yield from _second_half(c, latents, context, 1)


def _second_half(c: DiTConfig, rows: int, context: int, depth: int) -> Iterator[Product]:
    """Of blocks: cross-attention and feed-forward."""
    inner = int(c.width * c.ff_mult)
    yield Product(rows, c.width, _pairs(c) * c.width, depth)
    yield from _attention(rows, context, c.width, _pairs(c) * depth)
    yield Product(rows, c.width, c.width, depth)
    yield Product(rows, c.width, 2 * inner, depth)
    yield Product(rows, inner, c.width, depth)


def _resampler(c: ResamplerConfig, latents: int) -> Iterator[Product]:
    tokens, pairs, inner = latents * c.group, 2 if c.differential else 1, int(c.width * c.ff_mult)
    shifted = c.depth - c.depth // 2 if c.midpoint_shift and not c.window else 0
    # Shifted windows are one more than there are chunks: the ends are filled.
    for depth, rows in ((c.depth - shifted, tokens), (shifted, tokens + c.chunk_tokens)):
        if depth == 0:
            continue
        yield Product(rows, c.width, (2 * pairs + 1) * c.width, depth)
        reach = c.group * (c.window[0] + 1 + c.window[1]) if c.window else c.chunk_tokens
        yield from _attention(rows, reach, c.width, pairs * depth)
        yield Product(rows, c.width, c.width, depth)
        yield Product(rows, c.width, 2 * inner, depth)
        yield Product(rows, inner, c.width, depth)


def reference_step(c: DiTConfig, latents: int, max_tokens: int) -> int:
    """Operations of one step as the reference does it: nothing left out, and each time what no step changes."""
    context = max_tokens + 1
    products = [*_step(c, latents, context), *_second_half(c, c.memory_tokens, context, 1)]
    products += [Product(context, c.width, (_pairs(c) + 1) * c.width, c.depth)]
    products += _mlp(latents, c.local_width, c.width, c.width, c.depth)
    return sum(2 * p.rows * p.inner * p.columns * p.times for p in products)
