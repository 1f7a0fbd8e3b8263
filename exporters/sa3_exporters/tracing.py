"""What of the torch networks each graph is, traced on the meta device: no weight is ever loaded or copied here.

Every size is dynamic: batch, latents, prompt tokens, context. Opset 18, which ONNX Runtime from 1.20 on and its
DirectML and CoreML providers read.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18
from torch import Tensor, nn
from torch.export import Dim

from sa3_engines.config import ModelConfig, ResamplerConfig
from sa3_exporters.parity import PREPARED
from stable_audio_3.checkpoint import Networks
from stable_audio_3.networks.dit import DiT, Masks, Prepared
from stable_audio_3.networks.same import SAME
from stable_audio_3.networks.t5gemma import T5GemmaEncoder

OPSET = 18
op: Any = opset18


class Text(nn.Module):
    def __init__(self, text: T5GemmaEncoder) -> None:
        super().__init__()
        self.text = text

    def forward(self, rows: Tensor, mask_bias: Tensor, rope_cos: Tensor, rope_sin: Tensor) -> Tensor:
        return self.text(rows, mask_bias, (rope_cos, rope_sin))


class Prepare(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(self, context: Tensor, global_cond: Tensor, local: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.dit.prepare(context, global_cond, local))


class Step(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        global_embed: Tensor,
        keys: Tensor,
        values: Tensor,
        local_embed: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        context_bias: Tensor,
        key_bias: Tensor,
        value_gate: Tensor,
        out_gate: Tensor,
    ) -> Tensor:
        prepared = Prepared(global_embed, keys, values, local_embed)
        masks = Masks(context_bias, key_bias, value_gate, out_gate)
        return self.dit.step(x, timestep, prepared, (rope_cos, rope_sin), masks)


class Encode(nn.Module):
    def __init__(self, autoencoder: SAME) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, audio: Tensor, rope_cos: Tensor, rope_sin: Tensor, token_noise: Tensor) -> Tensor:
        return self.autoencoder.encode(audio, (rope_cos, rope_sin), token_noise)


class Decode(nn.Module):
    def __init__(self, autoencoder: SAME) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(
        self, latents: Tensor, rope_cos: Tensor, rope_sin: Tensor, frame_gate: Tensor, token_noise: Tensor
    ) -> Tensor:
        return self.autoencoder.decode(latents, (rope_cos, rope_sin), token_noise, frame_gate)


@dataclass(frozen=True)
class Size:
    """A dimension that changes: its name in the graph, what it is traced at, and how torch is told."""

    name: str
    traced: int
    dim: Any

    def __mul__(self, factor: int) -> Size:
        if factor == 1:
            return self
        return Size(f"{factor}*{self.name}", self.traced * factor, self.dim * factor)

    def __add__(self, more: int) -> Size:
        return Size(f"{self.name}+{more}", self.traced + more, self.dim + more) if more else self


@dataclass(frozen=True)
class Plan:
    """What to trace: inputs and outputs by name, their shapes in numbers and Sizes."""

    module: nn.Module
    inputs: Mapping[str, Sequence[int | Size]]
    outputs: Mapping[str, Sequence[int | Size]]


def _size(name: str, traced: int) -> Size:
    return Size(name, traced, Dim(name))


def plan(graph: str, networks: Networks, config: ModelConfig) -> Plan:
    batch = _size("batch", 3)
    match graph:
        case "text":
            return _text(networks, config, batch)
        case "prepare":
            return _prepare(networks, config, batch)
        case "step":
            return _step(networks, config, batch)
        case _:
            return _half(graph, networks, config, batch)


def _text(networks: Networks, config: ModelConfig, batch: Size) -> Plan:
    assert networks.text is not None and config.text is not None
    tokens, width = _size("tokens", 5), config.text.width
    rope = (tokens, config.text.head_dim)
    return Plan(
        Text(networks.text),
        {"rows": (batch, tokens, width), "mask_bias": (batch, tokens), "rope_cos": rope, "rope_sin": rope},
        {"hidden": (batch, tokens, width)},
    )


def _prepared(config: ModelConfig, batch: Size, local_frames: int | Size) -> dict[str, Sequence[int | Size]]:
    assert config.dit is not None
    c, context = config.dit, _size("context", 7)
    pairs = 2 if c.differential else 1
    shapes = (
        (batch, c.width),
        (c.depth, batch, pairs, c.heads, context, c.head_dim),
        (c.depth, batch, c.heads, context, c.head_dim),
        (c.depth, batch, local_frames, c.width),
    )
    return dict(zip(PREPARED, shapes, strict=True))


def _prepare(networks: Networks, config: ModelConfig, batch: Size) -> Plan:
    assert networks.dit is not None and config.dit is not None
    c, context, frames = config.dit, _size("context", 7), _size("local_frames", 11)
    return Plan(
        Prepare(networks.dit),
        {
            "context": (batch, context, c.context_width),
            "global_cond": (batch, c.global_width),
            "local": (batch, c.local_width, frames),
        },
        _prepared(config, batch, frames),
    )


def _step(networks: Networks, config: ModelConfig, batch: Size) -> Plan:
    assert networks.dit is not None and config.dit is not None
    c, frames, context = config.dit, _size("frames", 11), _size("context", 7)
    length = frames + c.memory_tokens
    # Traced with one frame of local conditioning. It is only ever added, and ONNX's Add takes one frame or all.
    local = Size("local_frames", 1, None)
    return Plan(
        Step(networks.dit),
        {
            "x": (batch, c.channels, frames),
            "timestep": (batch, c.timestep_features),
            **_prepared(config, batch, local),
            "rope_cos": (length, c.rope_dims),
            "rope_sin": (length, c.rope_dims),
            "context_bias": (batch, context),
            "key_bias": (batch, length),
            "value_gate": (batch, length),
            "out_gate": (batch, length),
        },
        {"velocity": (batch, c.channels, frames)},
    )


def _half(graph: str, networks: Networks, config: ModelConfig, batch: Size) -> Plan:
    c = config.autoencoder
    half = c.encoder if graph == "encode" else c.decoder
    chunks = _size("latents" if half.latents_multiple == 1 else "chunks", 5)
    latents = chunks * half.latents_multiple
    audio, compressed = (batch, c.channels, latents * c.ratio), (batch, c.latent_channels, latents)
    rope = _half_rope(half, latents)
    if graph == "encode":
        noise = (batch, latents, 1, half.width)
        inputs = {"audio": audio, "rope_cos": rope, "rope_sin": rope, "token_noise": noise}
        return Plan(Encode(networks.autoencoder), inputs, {"latents": compressed})
    noise = (batch, latents, half.stride, half.width)
    gate = (batch, latents)
    inputs = {"latents": compressed, "rope_cos": rope, "rope_sin": rope, "frame_gate": gate, "token_noise": noise}
    return Plan(Decode(networks.autoencoder), inputs, {"audio": audio})


def _half_rope(half: ResamplerConfig, latents: Size) -> tuple[int | Size, int]:
    return (latents * half.group if half.window else half.chunk_tokens, half.rope_dims)


def trace(wanted: Plan) -> torch.onnx.ONNXProgram:
    def shape(sizes: Sequence[int | Size]) -> list[int]:
        return [size.traced if isinstance(size, Size) else size for size in sizes]

    def dims(sizes: Sequence[int | Size]) -> dict[int, Any]:
        return {i: size.dim for i, size in enumerate(sizes) if isinstance(size, Size) and size.dim is not None}

    with quiet():
        program = torch.onnx.export(
            wanted.module.eval().requires_grad_(False),
            kwargs={name: torch.zeros(shape(sizes), device="meta") for name, sizes in wanted.inputs.items()},
            dynamic_shapes={name: dims(sizes) for name, sizes in wanted.inputs.items()},
            input_names=list(wanted.inputs),
            output_names=list(wanted.outputs),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            optimize=False,  # it would look into weights that are not there; _simplify does what is needed
            verbose=False,
        )
    assert program is not None
    return program


def _attention(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention over any number of leading dimensions; torch's own translation knows just two."""
    assert not (dropout_p or is_causal or enable_gqa) and query.shape is not None and key.shape is not None
    if scale is None:
        width = query.shape[-1]
        assert isinstance(width, int)
        scale = width**-0.5
    *leading, rows, columns = range(len(key.shape))
    scores = op.MatMul(query * op.Constant(value_float=scale), op.Transpose(key, perm=[*leading, columns, rows]))
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """The exporter warns about its own deprecations and about packages nobody needs here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
