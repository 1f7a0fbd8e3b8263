"""Makes graphs as they were exported into ones that OpenVINO runs in less memory, with the same numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from openvino import Model, Node, Output, PartialShape

AROUND = "around"  # a graph's own entry, among what OpenVINO keeps beside it in its file


def keep_dimensions(model: Model) -> int:
    """Lets products take arrays of any rank. How many were changed.

    Graphs have all rows of an array as one matrix for a product and take it apart again, which ONNX Runtime wants.
    OpenVINO keeps what comes out of such a product, for every layer, until the whole graph has run.
    """
    changed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Reshape" and (product := _product(node)) is not None:
            flat = product.input(0).get_source_output().get_node()
            product.input(0).replace_source_output(flat.input_value(0))
            node.output(0).replace(node.input_value(0))
            changed += 1
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def copy_sizes(model: Model) -> int:
    """Lets what joins or splits the last dimensions copy the ones before, instead of being told. How many were changed.

    Told, the sizes are computed while the graph runs, and OpenVINO keeps what comes out in memory of its own, layer by
    layer: at 120 s half as much again as the weights. Where chunks are taken from a length, or put together, what
    follows the leading dimensions has not as many numbers before and after, and sizes stay as they are; no graph of
    ours takes chunks of a size that is not known. Every export compares what comes out at several lengths and batches.
    """
    from openvino import opset13

    changed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or node.input_value(1).get_node().get_type_name() == "Constant":
            continue
        given, made = (_sizes(shape) for shape in (node.get_input_partial_shape(0), node.get_output_partial_shape(0)))
        leading = 0
        while leading < min(len(given), len(made)) and given[leading] is made[leading] is None:
            leading += 1
        rest = given[leading:], made[leading:]
        if leading and not any(None in sizes for sizes in rest) and math.prod(rest[0]) == math.prod(rest[1]):
            node.set_attribute("special_zero", True)  # a size of nothing copies the one in its place
            sizes = opset13.constant(np.array([0] * leading + rest[1], np.int64))
            node.input(1).replace_source_output(sizes.output(0))
            changed += 1
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def set_around(model: Model, kind: str) -> None:
    """Writes into a graph the number type of all that is not a product with a small weight."""
    model.set_rt_info(kind, AROUND)


def around(model: Model) -> str:
    return model.get_rt_info(AROUND).astype(str) if model.has_rt_info(AROUND) else "fp32"


def _sizes(shape: PartialShape) -> list[Any]:
    """None where it is not known before the graph runs."""
    return [size.get_length() if size.is_static else None for size in shape]


def _product(node: Node) -> Node | None:
    """The product whose rows a Reshape gives the dimensions back that another took from them."""
    rows = node.input_value(0).get_node()
    while rows.get_type_name() in ("Add", "Multiply") and is_fixed(rows.input_value(1).get_node()) and _alone(rows):
        rows = rows.input_value(0).get_node()
    if rows.get_type_name() != "MatMul" or not _alone(rows):
        return None
    flat = rows.input_value(0).get_node()
    if flat.get_type_name() != "Reshape" or not _alone(flat):
        return None
    return rows if _sized_by(node.input_value(1), flat.input_value(0)) else None


def _alone(node: Node) -> bool:
    return len(node.output(0).get_target_inputs()) == 1


def is_fixed(node: Node) -> bool:
    """A bias or a factor, which fits arrays of any rank."""
    if node.get_type_name() == "Constant":
        return len(node.get_output_shape(0)) < 2
    return bool(node.inputs()) and all(is_fixed(source.get_node()) for source in node.input_values())


def _sized_by(size: Output, array: Output) -> bool:
    """Whether a size is an array's own but for its last number, as exporters write it."""
    joined = size.get_node()
    if joined.get_type_name() != "Concat" or joined.get_input_size() != 2:
        return False
    leading = joined.input_value(0).get_node()
    while leading.get_type_name() in ("Slice", "Convert"):
        leading = leading.input_value(0).get_node()
    return leading.get_type_name() == "ShapeOf" and leading.input_value(0) == array
