"""Number types in an ONNX file, changed without ONNX's own parser: a session takes another weight for an initializer
only in the type that the file declares for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

FP32 = 1  # of ONNX's names of types
# Fields of ONNX's messages: a model's graph, a graph's initializers, a tensor's type and name.
_GRAPH, _INITIALIZER, _TYPE, _NAME = 7, 5, 2, 8


def as_fp32(model: bytes, names: Collection[str]) -> bytes:
    """The model with these initializers declared fp32. What makes them fp32 in the graph has nothing left to do."""
    changed = bytearray(model)
    for _, start, end in _fields(changed, 0, len(changed), _GRAPH):
        for _, first, last in _fields(changed, start, end, _INITIALIZER):
            found = {field: (at, to) for field, at, to in _fields(changed, first, last, _TYPE, _NAME)}
            name, kind = (found.get(field, (first, first)) for field in (_NAME, _TYPE))
            if changed[slice(*name)].decode() in names:
                assert kind[1] == kind[0] + 1, "types are numbers of one byte"
                changed[kind[0]] = FP32
    return bytes(changed)


def _fields(data: bytearray, start: int, end: int, *wanted: int) -> Iterator[tuple[int, int, int]]:
    """The number of each wanted field of a message, and where its value lies."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        first = at
        match key & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, first = _varint(data, at)
                at = first + size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"no ONNX file: a field of kind {kind} at byte {at}")
        if key >> 3 in wanted:
            yield key >> 3, first, at


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """A whole number, seven bits to a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
