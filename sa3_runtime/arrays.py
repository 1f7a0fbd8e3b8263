"""Arrays and tensors of any layout and sample type as float32 (channels, n)."""

from typing import Any, cast

import numpy as np

from sa3_engines.errors import InvalidRequest

MAX_CHANNELS = 32  # more means that the axes are the other way round


def as_array(value: object) -> np.ndarray:
    """What it holds, be it a tensor on any device; raises ValueError or TypeError where that is no array."""
    if not hasattr(value, "detach"):
        return np.asarray(cast(Any, value))
    cpu = cast(Any, value).detach().cpu()
    # numpy has no bfloat16.
    return np.asarray((cpu.float() if cpu.is_floating_point() else cpu).numpy())


def channels_first(audio: object, name: str) -> np.ndarray:
    tensor = hasattr(audio, "detach")
    if not tensor and not hasattr(audio, "__array__"):
        raise InvalidRequest(f"{name} must hold its audio as an array or tensor, not {described(audio)}")
    array = as_array(audio)
    shape = array.shape
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    elif array.ndim == 2 and not tensor and array.shape[1] <= MAX_CHANNELS:
        array = array.T
    if array.ndim != 2 or (array.shape[0] > MAX_CHANNELS and array.size):
        expected = "(channels, n)" if tensor else "(n,), (n, channels) or (channels, n)"
        raise InvalidRequest(f"{name} has shape {shape}; expected {expected} with at most {MAX_CHANNELS} channels")
    return full_scale(array, name)


def full_scale(array: np.ndarray, name: str) -> np.ndarray:
    match array.dtype.kind, array.dtype.itemsize:
        case "f", _:
            with np.errstate(over="ignore"):  # becomes inf, which is refused by name
                return array.astype(np.float32, copy=False)
        case ("i", 2) | ("i", 4):
            return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
        case "u", 1:
            return (array.astype(np.float32) - 128) / 128
        case _:
            raise InvalidRequest(f"{name} has {array.dtype} samples; expected float, int16, int32 or uint8")


def described(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(type(item).__name__ for item in cast('tuple[object, ...]', value)[:4])})"
    return type(value).__name__
