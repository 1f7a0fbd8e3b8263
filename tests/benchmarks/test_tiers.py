"""Every tier against plain torch: what is compared, on what, and that nothing measured is lost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from sa3_bench import limits, tiers
from sa3_bench.tiers import PLAIN, Asked
from sa3_engines import selection
from sa3_engines.engine import Options
from sa3_engines.errors import InvalidRequest

ONCE = Asked(
    model="nano", durations=(1.0,), backends=("torch", "onnx"), rounds=1, steps=1, threads=1, memory=False
)  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring it takes as long as everything else here."""
    found = {"gemm_gflops": {"numpy fp32": 100.0}, "bandwidth_gb_s": 10.0, "threads": 1, "device": "cpu"}
    monkeypatch.setattr(limits, "measure", lambda _threads: found)


def test_every_engine_does_the_same_work_on_the_processor(monkeypatch: pytest.MonkeyPatch):
    opened: list[Options] = []
    open_engine = selection.open_engine

    def recorded(source: Any, backend: str, options: Options) -> Any:
        opened.append(options)
        return open_engine(source, backend, options)

    monkeypatch.setattr(selection, "open_engine", recorded)
    kept: list[dict[str, Any]] = []
    found = tiers.measure(ONCE, lambda _: None, lambda so_far: kept.append(copy.deepcopy(so_far)))
    assert [entry["name"] for entry in found["entries"]] == [PLAIN, "torch fp32", "onnx exact"]
    assert {options.device for options in opened} == {"cpu"}  # also where torch would rather take a GPU
    for entry in found["entries"]:
        assert entry["stages"]["1"]["generate"]["seconds"][0] > 0
        if entry["name"] != PLAIN:
            assert 0 < entry["stages"]["1"]["step"]["share_of_peak"] < 10
    # What was measured before a clip was made is there already.
    assert "step" in kept[0]["entries"][1]["stages"]["1"] and "generate" not in kept[0]["entries"][1]["stages"]["1"]
    assert kept[-1] == found
    said = tiers.text(found)
    assert "| onnx exact fp32 | " in said and said.count("1.00x") >= 5
    assert "memory" not in said, "it was left out"
    found["entries"][2] |= {"peak_mb": {"1": 1234.5}, "load_seconds": 2.0}
    last = "| engine | load, warm | peak at 1 s |\n|---|---|---|\n| onnx exact | 2.00 s | 1,234 MB |\n"
    assert tiers.text(found).endswith(last)


def test_nothing_to_compare(golden: Path):
    with pytest.raises(InvalidRequest, match=r"has nothing to compare; run: sa3-export .* --target onnx"):
        tiers.measure(Asked(model=str(golden / "tiny-small"), backends=("onnx", "openvino")), lambda _: None)
