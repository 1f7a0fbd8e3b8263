"""What is done to a traced graph: weights stay where they are, in the checkpoint's safetensors files, and everything is
said once, in the form that ONNX Runtime runs best.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from sa3_exporters.targets import Weight
from sa3_exporters.tracing import Plan, Size, quiet
from stable_audio_3.checkpoint import AUTOENCODER, DIT, TEXT

_DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


def finish(model: ir.Model, wanted: Plan, weights: Mapping[str, Weight]) -> None:
    """Makes a traced model one to be saved in the folder where the weights' files lie."""
    held = _detach_weights(model.graph, weights)
    _simplify(model)
    _linear_as_gemm(model.graph, set(held))
    _norm_by_division(model.graph)
    _say_once(model)
    for value, name in held.items():
        _attach_weight(model.graph, value, name, weights[name])
    _declare(model, wanted)


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
    with quiet():
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
