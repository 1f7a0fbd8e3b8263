"""Rewrites an exact ONNX graph for a tier of small weights: its linear layers become ONNX Runtime's MatMulNBits.

The quantised weights lie beside the graph in a safetensors file, under the checkpoint's names: KEY holds the levels in
the operator's own layout (rows, groups, bytes of a group), KEY.scale a scale per group. What has to stay fp32 keeps its
place in the checkpoint's file. Only linear layers are rewritten: attention, norms and positions stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from sa3_engines.quantise import SCALE, Blocks
from sa3_engines.tensors import Stored, TensorFile
from sa3_exporters import islands
from sa3_exporters.targets import Form, Tier, Weight

Array = np.ndarray
DOMAIN = "com.microsoft"
ALIGNMENT = 64  # of every tensor in the file: what a processor's widest loads like
BLOCKS: Mapping[str, Blocks] = {"int8": Blocks(8, 128), "int4": Blocks(4, 32)}
# Products of whole numbers: activations are quantised too, by a group of one row at a time.
ACCURACY = 4


@dataclass(frozen=True)
class Linear:
    """A node of the graph that multiplies by a stored weight."""

    node: ir.Node
    key: str
    rows: int
    columns: int
    blocks: Blocks


def blocks(tier: Tier, key: str, shape: tuple[int, int]) -> Blocks | None:
    """How a tier stores a weight; None where it stays as it is."""
    return BLOCKS.get(islands.number_type(tier, key, shape))


def form(_: str, tier: Tier, key: str, shape: tuple[int, int]) -> Form | None:
    """What a tier makes of a graph's linear layer with this weight; None where it stays as it is."""
    if (found := blocks(tier, key, shape)) is None:
        return None
    rows, groups, size = found.shape(*shape)
    return Form(
        type=f"int{found.bits}",
        size=rows * groups * (size + 4),
        rounded=lambda weight: found.restore(*found.store(weight), weight.shape[1]),
        group=found.group,
    )


def linears(graph: ir.Graph, tier: Tier, weights: Mapping[str, Weight]) -> Iterator[Linear]:
    """Every Gemm whose second factor is a tensor of the checkpoint's files, as it is or cast to fp32, and not exact."""
    for node in graph:
        if node.op_type != "Gemm":
            continue
        held = node.inputs[1]
        maker = None if held is None else held.producer()
        if maker is not None and maker.op_type == "Cast":
            held = maker.inputs[0]
        key = "" if held is None else str(held.name)
        if key not in weights:
            continue
        rows, columns = weights[key].stored.shape
        if found := blocks(tier, key, (rows, columns)):
            yield Linear(node, key, rows, columns, found)


def rewrite(
    model: ir.Model,
    tier: Tier,
    weights: Mapping[str, Weight],
    folder: Path,
    name: str,
    made: dict[Any, tuple[str, ...]] | None = None,
) -> tuple[str, ...]:
    """Writes NAME.onnx and NAME.safetensors into the folder of the weights' files. The model is changed.

    made: what was written before, for other tiers. A graph that would come out the same is not written again, and one
    that would not never takes the other's name.
    """
    chosen = list(linears(model.graph, tier, weights))
    made = {} if made is None else made
    outcome = (model.graph.name, *((one.key, one.blocks) for one in chosen))
    if outcome in made:
        return made[outcome]
    if any(f"{name}.onnx" in files for files in made.values()):
        name = f"{model.graph.name}.{tier.name}"
    files = {location: TensorFile(folder / location) for location in {weights[one.key].location for one in chosen}}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for one in chosen:
        shape = one.blocks.shape(one.rows, one.columns)
        shapes |= {one.key: ("U8", shape), one.key + SCALE: ("F32", shape[:2])}

    def tensors() -> Iterator[Array]:
        for one in chosen:
            yield from one.blocks.store(files[weights[one.key].location].array(one.key))

    location = f"{name}.safetensors"
    stored = _write(folder / location, shapes, tensors(), {one.key: str(one.blocks) for one in chosen})
    for one in chosen:
        held = [_attach(model.graph, key, location, stored[key]) for key in (one.key, one.key + SCALE)]
        _replace(model.graph, one, held)
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports[DOMAIN] = 1
    ir.save(model, folder / f"{name}.onnx")
    made[outcome] = (f"{name}.onnx", location)
    return made[outcome]


def _write(
    path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterator[Array], metadata: Mapping[str, str]
) -> Mapping[str, Stored]:
    """A safetensors file, one tensor in memory at a time."""
    # All levels come first: their sizes are whole groups, which keeps every offset a multiple of the alignment's.
    order = sorted(shapes, key=lambda key: shapes[key][0] == "F32")
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end, spans = 0, dict[str, tuple[int, int]]()
    for key in order:
        kind, shape = shapes[key]
        size = int(np.prod(shape)) * (4 if kind == "F32" else 1)
        spans[key] = end, size
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, tensor in zip(shapes, tensors, strict=True):
            file.seek(start + spans[key][0])
            file.write(np.ascontiguousarray(tensor).data)
    return {key: Stored(*shapes[key], start + first, size) for key, (first, size) in spans.items()}


def _attach(graph: ir.Graph, key: str, location: str, stored: Stored) -> ir.Value:
    kind = ir.DataType.FLOAT if stored.dtype == "F32" else ir.DataType.UINT8
    shape = ir.Shape(stored.shape)
    graph.initializers.pop(key, None)  # the checkpoint's, where it was not cast
    tensor = ir.ExternalTensor(location, stored.offset, stored.size, kind, shape=shape, name=key)
    held = ir.Value(name=key, shape=shape, type=ir.TensorType(kind), const_value=tensor)
    graph.register_initializer(held)
    return held


def _replace(graph: ir.Graph, one: Linear, held: list[ir.Value]) -> None:
    """Rows before columns, as Gemm reads a weight with transB: what the exporter writes."""
    bias = one.node.inputs[2] if len(one.node.inputs) > 2 else None
    sizes = {"K": one.columns, "N": one.rows, "bits": one.blocks.bits, "block_size": one.blocks.group}
    node = ir.Node(
        DOMAIN,
        "MatMulNBits",
        [one.node.inputs[0], *held, *([None, None, bias] if bias is not None else [])],
        [ir.AttrInt64(name, value) for name, value in {**sizes, "accuracy_level": ACCURACY}.items()],
    )
    graph.insert_before(one.node, node)
    old, new = one.node.outputs[0], node.outputs[0]
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(one.node, safe=True)
    new.name = name
