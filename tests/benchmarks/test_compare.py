"""Compare's verdicts, and what it refuses to compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sa3_bench import compare, stats
from sa3_bench.cases import Case
from sa3_engines.errors import InvalidRequest

from .conftest import answer, bad, good, result, write

CASE = Case(model="tiny", seconds=2.0, backend="torch", precision="fp32")
TIMES = [1.0, 1.01, 0.99, 1.0, 1.02]


def verdict(tmp_path: Path, a: dict, b: dict) -> compare.Line:
    (line,) = compare.compare(
        write(tmp_path / "a.json", result((CASE, a))), write(tmp_path / "b.json", result((CASE, b)))
    )
    return line


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.7, stats.FASTER), (1.0, stats.UNCLEAR), (1.02, stats.UNCLEAR), (1.5, stats.SLOWER)]
)
def test_the_three_verdicts(tmp_path: Path, factor: float, expected: str):
    line = verdict(tmp_path, good(TIMES, CASE), good([factor * t for t in TIMES], CASE))
    assert line.verdict == expected
    assert line.ratio is not None and line.ratio.value == pytest.approx(factor)
    assert compare.regressed([line]) == (expected == stats.SLOWER)


def test_what_broke_is_a_regression_and_never_fast(tmp_path: Path):
    line = verdict(tmp_path, good(TIMES, CASE), bad("it crashed (SIGSEGV)"))
    assert line.verdict == compare.BROKEN and "SIGSEGV" in line.detail and line.ratio is None
    assert compare.regressed([line])


def test_what_was_broken_before_is_none(tmp_path: Path):
    assert verdict(tmp_path, bad(), good(TIMES, CASE)).verdict == compare.MENDED
    line = verdict(tmp_path, bad(), bad())
    assert line.verdict == compare.STILL and not compare.regressed([line])


def test_other_samples_are_not_compared(tmp_path: Path):
    line = verdict(tmp_path, good(TIMES, CASE), good([t / 9 for t in TIMES], CASE, rate=800))
    assert line.verdict == compare.OTHER and "3200 and 1600" in line.detail
    assert compare.regressed([line])


def test_another_seed_is_not_compared(tmp_path: Path):
    other = good([t / 9 for t in TIMES], replace(CASE, seed=5))
    other["case"] = replace(CASE, seed=5).as_json()
    data = result((CASE, other))
    data["cases"][CASE.key]["case"]["seed"] = 5
    lines = compare.compare(
        write(tmp_path / "a.json", result((CASE, good(TIMES, CASE)))), write(tmp_path / "b.json", data)
    )
    assert lines[0].verdict == compare.OTHER and "seed" in lines[0].detail


def test_lines_of_once_that_took_turns_are_paired(tmp_path: Path):
    """A drift that hides the difference when the runs are taken apart."""
    course = [1.0, 1.3, 1.6, 1.9, 2.2, 2.5]
    for name, factor, offset in (("A", 1.0, 0.0), ("B", 1.2, 1.0)):
        lines = [json.dumps(answer([factor * c], CASE, started=10 * i + offset)) for i, c in enumerate(course)]
        (tmp_path / f"{name}.json").write_text("\n".join(["what else was said", *lines]) + "\n")
    (line,) = compare.compare(tmp_path / "A.json", tmp_path / "B.json")
    assert line.verdict == stats.SLOWER and ", interleaved" in line.detail
    assert line.ratio is not None and line.ratio.value == pytest.approx(1.2)


def test_one_case_each_may_differ_in_engine(tmp_path: Path):
    other = replace(CASE, backend="onnx")
    a, b = (
        write(tmp_path / "a.json", result((CASE, good(TIMES, CASE)))),
        write(tmp_path / "b.json", result((other, good([t / 2 for t in TIMES], other)))),
    )
    (line,) = compare.compare(a, b)
    assert line.verdict == stats.FASTER


def test_cases_of_one_side_alone_are_named(tmp_path: Path):
    other = replace(CASE, seconds=1.0)
    a = write(tmp_path / "a.json", result((CASE, good(TIMES, CASE)), (other, good(TIMES, other))))
    b = write(tmp_path / "b.json", result((CASE, good(TIMES, CASE))))
    lines = {line.verdict for line in compare.compare(a, b)}
    assert lines == {stats.UNCLEAR, compare.MISSING}


@pytest.mark.parametrize("text", ["", "no json", "[1, 2]", '{"a": 1}', '{"schema": 99, "cases": {}}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str):
    a = write(tmp_path / "a.json", result((CASE, good(TIMES, CASE))))
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InvalidRequest):
        compare.compare(a, tmp_path / "b.json")
    with pytest.raises(InvalidRequest):
        compare.compare(a, tmp_path / "missing.json")


@pytest.mark.parametrize(("factor", "code"), [(0.5, 0), (1.0, 0), (2.0, 7)])
def test_exit_codes(tmp_path: Path, bench, factor: float, code: int):
    a = write(tmp_path / "a.json", result((CASE, good(TIMES, CASE))))
    b = write(tmp_path / "b.json", result((CASE, good([factor * t for t in TIMES], CASE))))
    done = bench("compare", a, b, "--json")
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["regressed"] == (code == 7)
