"""How many threads are worth having, by what the system says of this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sa3_engines import models, onnx, processor
from sa3_engines.engine import Options
from stable_audio_3.engine import BACKEND as TORCH


def held(root: Path, quota: str) -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text("0::/\n")
    (root / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (root / "sys" / "fs" / "cgroup" / "cpu.max").write_text(quota)
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("50000 100000", 1), ("200000 100000", 2), ("250000 100000", 3), ("9000000 100000", 8), ("max 100000", 8)],
)
def test_no_more_threads_than_a_container_has_the_time_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = held(tmp_path, quota)
    assert processor.cores(root) == cores
    assert processor.usable() == 8


def test_where_the_system_says_nothing_all_are_used(tmp_path: Path):
    assert processor.cores(tmp_path) == processor.usable() >= 1


def test_engines_keep_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor, "usable", lambda: 8)
    monkeypatch.setattr(processor.cgroup, "cores", lambda _root: 3.0)
    engine = onnx.BACKEND.open(models.locate("nano"), Options())
    assert engine._threads == 3
    assert engine._options("step").intra_op_num_threads == 3
    engine.close()


def test_torch_keeps_to_it(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(processor, "cores", lambda: 1)
    try:
        torch.set_num_threads(2)
        TORCH.open(models.locate("nano"), Options(device="cpu")).close()
        assert torch.get_num_threads() == 1
        TORCH.open(models.locate("nano"), Options(device="cpu", threads=2)).close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
