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
        content = Path(path).read_bytes()
    except OSError as e:
        raise InvalidRequest(f"cannot read {name!r}: {e.strerror or e}") from e
    except ValueError as e:  # a NUL
        raise InvalidRequest(f"cannot read {name!r}: no file has such a name") from e
    wrong = f"{name!r} is not a sidecar"
    try:
        return loads(content.decode("utf-8-sig"), wrong)
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"{wrong}: it is not text in UTF-8") from e


def loads(text: str, wrong: str) -> dict[str, Any]:
    """wrong: how a sentence begins that says what `text` is not."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as e:
        raise InvalidRequest(f"{wrong}: {_where(e)}") from e
    except RecursionError as e:
        raise InvalidRequest(f"{wrong}: it is nested too deep") from e
    except ValueError as e:  # of more digits than Python reads
        raise InvalidRequest(f"{wrong}: it holds a number that is too long") from e
    schema = record.pop("schema", None) if isinstance(record, dict) else None
    if type(schema) is not int or schema < 1:
        raise InvalidRequest(f"{wrong}: it has no 'schema' number, so this toolkit did not write it")
    if schema > SCHEMA:
        raise InvalidRequest(f"{wrong}: its schema is {schema}, newer than the {SCHEMA} read here; update sa3-runtime")
    return record


def _where(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "it is empty"
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        return "it breaks off before its end"
    return f"it is no JSON from line {error.lineno}, column {error.colno} on"


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)  # pyright: ignore[reportUnknownVariableType]
    raise TypeError(f"a sidecar cannot hold {type(value).__name__}")
