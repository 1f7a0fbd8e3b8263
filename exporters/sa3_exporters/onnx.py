"""The torch networks as ONNX graphs whose weights stay where they are: in the checkpoint's safetensors files.

Networks are traced on the meta device, so no weight is ever loaded or copied here. Every size is dynamic: batch,
latents, prompt tokens, context. Opset 18, which ONNX Runtime from 1.20 on and its DirectML and CoreML providers read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset18, optimizer
from torch import Tensor, nn
from torch.export import Dim

from sa3_engines import onnx as engine
from sa3_engines import quantise
from sa3_engines.config import ModelConfig, ResamplerConfig
from sa3_engines.tiers import COMPACT, EXACT, FAST, HIGH
from sa3_exporters import islands as table
from sa3_exporters import onnx_tiers
from sa3_exporters.parity import PREPARED
from sa3_exporters.targets import Tier, Weight, Work
from stable_audio_3.checkpoint import AUTOENCODER, DIT, TEXT, Networks
from stable_audio_3.networks.dit import DiT, Masks, Prepared
from stable_audio_3.networks.same import SAME
from stable_audio_3.networks.t5gemma import T5GemmaEncoder

OPSET = 18
op: Any = opset18
_DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


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


class OnnxTarget:
    name = "onnx"
    backends = ("onnx",)
    tools = ("onnx", "onnxscript", "onnxruntime")
    sources = (
        Path(__file__),
        *(Path(str(module.__file__)) for module in (onnx_tiers, quantise, table)),
    )

    def why_not(self) -> str | None:
        missing = [tool for tool in self.tools if importlib.util.find_spec(tool) is None]
        return f"it needs {', '.join(missing)}; pip install 'sa3-runtime[export]'" if missing else None

    def tiers(self, islands: Path | None = None) -> Mapping[str, Tier | str]:
        def small(name: str, kind: str) -> Tier:
            return Tier(name=name, type=kind, exact=table.patterns(self.name, name, islands))

        return {
            EXACT: Tier(name=EXACT, type="fp32"),
            HIGH: "ONNX Runtime has no half precision on processors; the openvino target has",
            # Every processor can: where it has no instructions for products of bytes, ONNX Runtime does without.
            FAST: small(FAST, "int8"),
            COMPACT: small(COMPACT, "int4"),
        }

    def convert(self, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        made: dict[str, ir.Model] = work.shared.setdefault("graphs", {})
        if graph not in made:
            known = work.known.get(graph)
            made[graph] = ir.load(known) if known else model(graph, work.networks, work.config, work.weights)
        if tier.name == EXACT:
            ir.save(made[graph], work.folder / f"{graph}.onnx")
            return (f"{graph}.onnx",)
        written = work.shared.setdefault("written", {})
        name = f"{graph}.{tier.type}"
        return onnx_tiers.rewrite(made[graph].clone(), tier, work.weights, work.folder, name, written)

    def open(self, work: Work, tier: Tier, files: Mapping[str, str]) -> engine.OnnxEngine:
        paths = {graph: work.folder / file for graph, file in files.items()}
        versions = engine.BACKEND.versions()
        return engine.OnnxEngine(work.config, paths, versions=versions, precision=tier.type, tier=tier.name)


def model(graph: str, networks: Networks, config: ModelConfig, weights: Mapping[str, Weight]) -> ir.Model:
    """A graph in fp32, to be saved in the folder where the weights' files lie; networks are on the meta device."""
    wanted = plan(graph, networks, config)
    program = trace(wanted)
    made = program.model
    made.graph.name = graph
    held = _detach_weights(made.graph, weights)
    _simplify(made)
    _linear_as_gemm(made.graph, set(held))
    _norm_by_division(made.graph)
    _say_once(made)
    for value, name in held.items():
        _attach_weight(made.graph, value, name, weights[name])
    _declare(made, wanted)
    return made


def trace(wanted: Plan) -> torch.onnx.ONNXProgram:
    def shape(sizes: Sequence[int | Size]) -> list[int]:
        return [size.traced if isinstance(size, Size) else size for size in sizes]

    def dims(sizes: Sequence[int | Size]) -> dict[int, Any]:
        return {i: size.dim for i, size in enumerate(sizes) if isinstance(size, Size) and size.dim is not None}

    with _quiet():
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
def _quiet() -> Generator[None]:
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


def _detach_weights(graph: ir.Graph, weights: Mapping[str, Weight]) -> dict[ir.Value, str]:
    """Weights become inputs for a while, so that nothing can be folded into them. Returns their names in the files."""
    standalone = not any(name.startswith(AUTOENCODER) for name in weights)
    prefixes = {"text": TEXT, "dit": DIT, "autoencoder": "" if standalone else AUTOENCODER}
    held: dict[ir.Value, str] = {}
    for local, value in list(graph.initializers.items()):
        part, _, key = local.partition(".")
        name = prefixes.get(part, "") + key
        if name in weights:
            del graph.initializers[local]
            value.const_value = None
            held[value] = name
    graph.inputs.extend(held)
    return held


def _simplify(model: ir.Model) -> None:
    with _quiet():
        passes.InlinePass()(model)
        optimizer.fold_constants(model, onnx_shape_inference=False)
        passes.RemoveUnusedNodesPass()(model)


def _linear_as_gemm(graph: ir.Graph, weights: set[ir.Value]) -> None:
    """x @ transpose(w) + b as one Gemm over all rows, which reads w as stored: a transposed copy of every weight is
    what ONNX Runtime would make otherwise.
    """
    for node in list(graph):
        if node.op_type != "MatMul":
            continue
        x, transposed = node.inputs
        transpose = transposed.producer() if transposed is not None else None
        if x is None or transpose is None or transpose.op_type != "Transpose":
            continue
        weight = transpose.inputs[0]
        if weight is None or weight not in weights or x.shape is None or weight.shape is None:
            continue
        last, bias = _bias_after(node, weights)
        rows, columns = weight.shape.numpy()
        tape = ir.tape.Tape()
        y = x
        if len(x.shape) > 2:
            y = tape.op("Reshape", [x, tape.initializer(ir.tensor([-1, columns]), f"{weight.name}.columns")])
        y = tape.op("Gemm", [y, weight] if bias is None else [y, weight, bias], {"transB": 1})
        if len(x.shape) > 2:
            leading = tape.op("Shape", [x], {"end": len(x.shape) - 1})
            row_count = tape.initializer(ir.tensor([rows]), f"{weight.name}.rows")
            y = tape.op("Reshape", [y, tape.op("Concat", [leading, row_count], {"axis": 0})])
        _replace(graph, last, tape, y)


def _bias_after(node: ir.Node, weights: set[ir.Value]) -> tuple[ir.Node, ir.Value | None]:
    out = node.outputs[0]
    users = [usage.node for usage in out.uses()]
    if len(users) == 1 and users[0].op_type == "Add":
        other = next((value for value in users[0].inputs if value is not out), None)
        if other is not None and other in weights and other.shape is not None and len(other.shape) == 1:
            return users[0], other
    return node, None


def _norm_by_division(graph: ir.Graph) -> None:
    """x * (1 / s) as x / s: the form that ONNX Runtime knows as a norm and fuses."""
    for node in list(graph):
        if node.op_type != "Reciprocal" or len(node.outputs[0].uses()) != 1:
            continue
        product = next(iter(node.outputs[0].uses())).node
        other = next((value for value in product.inputs if value is not node.outputs[0]), None)
        if product.op_type == "Mul" and other is not None:
            tape = ir.tape.Tape()
            _replace(graph, product, tape, tape.op("Div", [other, node.inputs[0]]))


def _say_once(model: ir.Model) -> None:
    """Without slices that take everything, what is computed twice and what nobody uses: a third of the nodes, and of
    the time that ONNX Runtime takes to open `step`, a fifth of a second.
    """
    for node in list(model.graph):
        if node.op_type == "Slice" and _takes_all(*node.inputs[1:3], *node.inputs[4:]):
            assert node.inputs[0] is not None
            node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
    passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)


def _takes_all(start: ir.Value | None, end: ir.Value | None, step: ir.Value | None = None) -> bool:
    """From the first to the last, whatever the axis."""
    known = [ir.convenience.get_const_tensor(value) for value in (start, end, step) if value is not None]
    wanted = (0, np.iinfo(np.int64).max, 1)
    return all(one is not None and (one.numpy() == all_).all() for one, all_ in zip(known, wanted, strict=False))


def _replace(graph: ir.Graph, node: ir.Node, tape: ir.tape.Tape, value: ir.Value) -> None:
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    graph.insert_before(node, tape.nodes)
    old = node.outputs[0]
    name = old.name
    value.shape, value.type = old.shape, old.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name  # it may be one of the graph's outputs


def _attach_weight(graph: ir.Graph, value: ir.Value, name: str, weight: Weight) -> None:
    graph.inputs.remove(value)
    if not value.uses():
        return
    stored = weight.stored
    dtype, shape = _DTYPES[stored.dtype], ir.Shape(stored.shape)
    tensor = ir.ExternalTensor(weight.location, stored.offset, stored.size, dtype, shape=shape, name=name)
    held = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(held)
    if dtype != ir.DataType.FLOAT:
        # Done once, when the graph is loaded.
        cast = ir.Node("", "Cast", [held], [ir.AttrInt64("to", ir.DataType.FLOAT)], graph=None)
        graph.insert_before(graph[0], cast)
        held = cast.outputs[0]
    value.replace_all_uses_with(held)


def _declare(model: ir.Model, wanted: Plan) -> None:
    """Names every dynamic size, and leaves out what was only inferred or only says where a node comes from."""
    declared = {**wanted.inputs, **wanted.outputs}
    for value in [*model.graph.inputs, *model.graph.outputs]:
        value.shape = ir.Shape([s.name if isinstance(s, Size) else s for s in declared[str(value.name)]])
        value.metadata_props.clear()
    outputs = set(model.graph.outputs)
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in outputs:
                value.shape = value.type = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.producer_name, model.producer_version = "sa3-export", None
    passes.NameFixPass()(model)


TARGET = OnnxTarget()
