"""Where the time of a graph goes, as each runtime tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sa3_bench import profile
from sa3_bench.cases import Case
from sa3_engines.engine import Ran
from sa3_engines.errors import InvalidRequest

NANO = Case(model="nano", seconds=2.0, threads=1)


@pytest.mark.parametrize(
    ("backend", "product", "kernel"), [("onnx", "Gemm", "CPUExecutionProvider"), ("torch", "aten::mm", "cpu")]
)
def test_products_are_named_and_take_most(backend: str, product: str, kernel: str):
    found = profile.measure(Case(model="nano", seconds=2.0, threads=1, backend=backend), "step")
    rows = {(row["operation"], row["kernel"]): row for row in found["rows"]}
    whole = sum(row["seconds"] for row in found["rows"])
    assert rows[product, kernel]["seconds"] > 0.1 * whole and rows[product, kernel]["count"] > 10
    said = profile.text(found)
    assert said.startswith(f"step at 2 s, {backend} exact fp32 on cpu: ")
    shares = [float(line.split("%")[0]) for line in said.splitlines()[1:]]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_what_takes_next_to_nothing_is_one_line():
    ran = [Ran("Gemm", "fast", 0.5), Ran("Gemm", "fast", 0.4), Ran("Gemm", "slow", 0.097)]
    ran += [Ran(f"Op{i}", "fast", 0.001) for i in range(3)]
    rows = [vars(row) for row in profile.rows(ran)]
    found = {"backend": "b", "tier": "", "type": "fp32", "device": "cpu", "graph": "step", "seconds": 5.0, "rows": rows}
    assert profile.text(found).splitlines() == [
        "step at 5 s, b fp32 on cpu: 1000.0 ms in its operations",
        " 90.0 %    900.00 ms      2 x  Gemm  fast",
        "  9.7 %     97.00 ms      1 x  Gemm  slow",
        "  0.3 %      3.00 ms      3 x  others",
    ]


def test_a_graph_that_is_not_there():
    with pytest.raises(InvalidRequest, match="no graph sing; it has decode, encode, prepare, step, text"):
        profile.measure(NANO, "sing")


def test_the_command(bench, tiny_model: Path):
    words = ("profile", "--model", tiny_model, "--backend", "torch", "--seconds", 1, "--graph", "decode")
    done = bench(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["graph"] == "decode"
    done = bench(*words, "--precision", "int8")
    assert done.returncode == 4 and "Traceback" not in done.stderr
