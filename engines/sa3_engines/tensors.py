"""Safetensors files through a memory map, in numpy and with bf16: what is not touched is never read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from sa3_engines.errors import CheckpointError

Array = np.ndarray
# numpy has no bf16; its bits are the upper half of fp32's.
_DTYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies. The offset counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class TensorFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata, self.tensors = _header(path)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._stored(key).shape

    def array(self, key: str) -> Array:
        """In fp32; a view of the map where the file holds fp32."""
        return self._fp32(self._raw(key), self._stored(key).dtype)

    def rows(self, key: str, index: Array) -> Array:
        """Some rows of a table, in fp32: only they are read."""
        return self._fp32(self._raw(key)[index], self._stored(key).dtype)

    def address(self) -> int:
        """Where in memory it is mapped."""
        return int(self._map.ctypes.data)

    @cached_property
    def _map(self) -> Array:
        return np.memmap(self.path, np.uint8, "r")

    def _stored(self, key: str) -> Stored:
        if key not in self.tensors:
            raise CheckpointError(f"{self.path} holds no tensor {key}")
        return self.tensors[key]

    def _raw(self, key: str) -> Array:
        stored = self._stored(key)
        if stored.dtype not in _DTYPES:
            raise CheckpointError(f"{self.path}: {key} is of type {stored.dtype}; known are {', '.join(_DTYPES)}")
        data = self._map[stored.offset : stored.offset + stored.size]
        return data.view(_DTYPES[stored.dtype]).reshape(stored.shape)

    @staticmethod
    def _fp32(array: Array, dtype: str) -> Array:
        if dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(array, np.float32)


def _header(path: Path) -> tuple[dict[str, str], dict[str, Stored]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 100_000_000:
                raise CheckpointError(f"{path} is not a safetensors file")
            header = cast("dict[str, Any]", json.loads(file.read(length)))
            end = file.seek(0, 2)
        metadata = {str(key): str(value) for key, value in (header.pop("__metadata__", None) or {}).items()}
        tensors = {key: _stored(key, entry, 8 + length) for key, entry in header.items()}
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{path} is not a safetensors file: {e}") from e
    if any(stored.offset + stored.size > end for stored in tensors.values()):
        raise CheckpointError(f"{path} is cut off: it ends before its last tensor")
    return metadata, tensors


def _stored(key: str, entry: Mapping[str, Any], start: int) -> Stored:
    first, last = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not all(type(size) is int and size >= 0 for size in (first, last - first, *shape)):
        raise ValueError(f"{key} is of shape {list(shape)}, from {first} to {last}")
    if dtype in _DTYPES and math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != last - first:
        raise ValueError(f"{key} is of type {dtype} and shape {list(shape)}, and takes {last - first} bytes")
    return Stored(dtype, shape, start + first, last - first)
