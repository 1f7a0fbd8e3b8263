"""Weights as OpenVINO's graphs hold them, under their names in the checkpoint: KEY the numbers, KEY.scale the scales of
quantised ones. The exporter writes them so; the engine puts adapted ones into their places.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from sa3_engines.quantise import SCALE, dequantise, grouped, int4, int8

if TYPE_CHECKING:
    from openvino import Model, Node, Tensor

Array = np.ndarray
GROUP4 = 64  # columns that share a scale at four bits; at eight it is the whole row
HALF = ("bf16", "fp16")
LARGEST = {"fp16": float(np.finfo(np.float16).max)}  # of what is less than fp32's
# Our names of number types by OpenVINO's.
TYPES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "i4": "int4"}


def numbers(weight: Array, kind: str) -> dict[str, Tensor]:
    """The constants that stand for a weight, by what follows its name."""
    from openvino import Tensor, Type

    match kind:
        case "bf16":
            return {"": Tensor(_bf16(weight), list(weight.shape), Type.bf16)}
        case "fp16":
            return {"": Tensor(np.ascontiguousarray(weight, np.float16))}
        case "int8":
            levels, scale = int8(weight)
            return {"": Tensor(levels), SCALE: Tensor(scale)}
        case "int4":
            levels, scale = int4(weight, GROUP4)
            whole = grouped(levels, GROUP4)
            return {"": Tensor(_halves(whole), list(whole.shape), Type.i4), SCALE: Tensor(scale[..., None])}
        case _:
            return {"": Tensor(np.ascontiguousarray(weight, np.float32))}


def rounded(weight: Array, kind: str) -> Array:
    """The weight in fp32, as `numbers` makes a graph hold it."""
    match kind:
        case "bf16":
            return (_bf16(weight).astype(np.uint32) << 16).view(np.float32)
        case "fp16":
            return weight.astype(np.float16).astype(np.float32)
        case "int8":
            return dequantise(*int8(weight))
        case "int4":
            return dequantise(*int4(weight, GROUP4), GROUP4)
        case _:
            return weight


def size(shape: tuple[int, int], kind: str) -> int:
    """Bytes that `numbers` takes, with the scales."""
    rows, columns = shape
    match kind:
        case "bf16" | "fp16":
            return 2 * rows * columns
        case "int8":
            return rows * columns + 4 * rows
        case "int4":
            return rows * columns // 2 + 4 * rows * (columns // GROUP4)
        case _:
            return 4 * rows * columns


def constant(tensor: Tensor, name: str) -> Node:
    from openvino import opset13

    made = opset13.constant(tensor, shared_memory=False)
    made.set_friendly_name(name)
    return made


def replace(model: Model, weights: Iterable[tuple[str, Array]], precision: str) -> None:
    """Puts other weights into the places of a graph's own. Those of a lower precision take the form they have there;
    half precision that is the checkpoint's own takes fp32, which costs nothing once they are packed.
    """
    held = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for key, weight in weights:
        kind = TYPES[held[key].get_element_type().get_type_name()]
        if kind in HALF and kind != precision:
            kind = "fp32"
        for suffix, tensor in numbers(weight, kind).items():
            held[key + suffix].output(0).replace(constant(tensor, key + suffix).output(0))


def addresses(model: Model) -> list[int]:
    """Where in memory a graph's constants lie: in a mapped file, while nothing else was put into their places."""
    return [node.data.ctypes.data for node in model.get_ops() if node.get_type_name() == "Constant"]


def _bf16(array: Array) -> Array:
    """The bits of the nearest numbers."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _halves(levels: Array) -> Array:
    """Levels -8 to 7 as signed halves of bytes, the first of a pair low."""
    bits = levels.view(np.uint8) & 15
    return bits[..., ::2] | (bits[..., 1::2] << 4)
