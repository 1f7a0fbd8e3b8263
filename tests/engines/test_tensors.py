"""Safetensors files that are none: whoever reads one is told so, before any of its numbers are taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sa3_engines.errors import CheckpointError
from sa3_engines.tensors import TensorFile


def written(path: Path, header: object) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    return path


def entry(**more: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **more}}


def test_what_is_whole_is_read(tmp_path: Path):
    save_file(
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "empty": np.zeros((0, 2), np.float16)}, tmp_path / "x"
    )
    file = TensorFile(tmp_path / "x")
    assert file.array("a").tolist() == [[0, 1, 2], [3, 4, 5]] and file.array("empty").shape == (0, 2)
    assert TensorFile(written(tmp_path / "y", entry())).shape("a") == (2, 3)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 50_000,
        [],
        {"__metadata__": [1], **entry()},
        entry(shape=[3, 3]),
        entry(shape="23"),
        entry(shape=[-2, -3]),
        entry(shape=[2.0, 3.0]),
        entry(shape=[[2], 3]),
        entry(data_offsets=[-24, 0]),
        entry(data_offsets=[24, 0]),
        entry(data_offsets=[0, 12]),
        entry(data_offsets=[0.0, 24.0]),
        entry(data_offsets=[0]),
        entry(data_offsets=None),
        entry(dtype=["F32"]),
        {"a": 3},
    ],
    ids=lambda header: str(header)[:60],
)
def test_a_header_that_says_nonsense(tmp_path: Path, header: object):
    with pytest.raises(CheckpointError, match="x is not a safetensors file: "):
        TensorFile(written(tmp_path / "x", header))


def test_notes_are_texts(tmp_path: Path):
    assert TensorFile(written(tmp_path / "x", {"__metadata__": {"lora_config": 3}, **entry()})).metadata == {
        "lora_config": "3"
    }
