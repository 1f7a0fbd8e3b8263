"""The record that says how a generated sound was made, as JSON: in a file beside it, or in its tags."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sa3_engines.errors import InvalidRequest
from sa3_runtime.files import write_atomic

SCHEMA = 1


def write(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    write_atomic(path, f"{dumps(record, indent=2)}\n".encode())


def dumps(record: Mapping[str, Any], indent: int | None = None) -> str:
    # Sorted, so that two runs differ only where what they did differs. NaN is not JSON.
    text = json.dumps(
        {**record, "schema": SCHEMA},
        indent=indent,
        separators=None if indent else (",", ":"),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    )
    # Bytes of a file name that are not UTF-8 arrive as lone surrogates.
    return text.encode(errors="backslashreplace").decode()


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record without its schema number, so that what was written comes back."""
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as e:
        raise InvalidRequest(f"cannot read {name!r}: {e.strerror or e}") from e
    except ValueError as e:  # not UTF-8, a NUL in the path
        raise InvalidRequest(f"{name!r} is not a sidecar: it does not hold JSON ({e})") from e
    return loads(text, name)


def loads(text: str, name: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as e:  # nested too deep
        raise InvalidRequest(f"{name!r} is not a sidecar: it does not hold JSON ({e})") from e
    schema = record.pop("schema", None) if isinstance(record, dict) else None
    if type(schema) is not int or schema < 1:
        raise InvalidRequest(f"{name!r} is not a sidecar: it has no 'schema' number, so this toolkit did not write it")
    if schema > SCHEMA:
        raise InvalidRequest(f"{name!r} has schema {schema}, newer than the {SCHEMA} read here; update sa3-runtime")
    return record


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)  # pyright: ignore[reportUnknownVariableType]
    raise TypeError(f"a sidecar cannot hold {type(value).__name__}")
