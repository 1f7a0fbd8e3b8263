"""The command, in processes of its own, on a miniature: once, table with broken engines, resuming, history."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sa3_bench import arguments, suite
from sa3_engines import models
from sa3_engines.errors import InvalidRequest

ONCE = ("T", "t5", "step", "loop", "decode", "generate", "peak_rss_mb")


def test_once_prints_one_object_as_its_last_line(bench, tiny_model: Path):
    done = bench("once", "--model", tiny_model, "--seconds", 2, "--steps", 2, "--threads", 1, "--backend", "torch")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    (run,) = answer["runs"]
    assert set(ONCE) <= set(run) and all(run[name] > 0 for name in ONCE)
    assert run["samples"] == 3200 and run["t5"] + run["loop"] + run["decode"] < run["generate"]
    assert answer["work"]["step"]["calls"] == 2 and answer["support"]["backend"] == "torch"


def test_a_folder_of_random_weights_is_said_to_be_one(bench, tiny_model: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    raw = json.loads((folder / models.CONFIG).read_text())
    (folder / models.CONFIG).write_text(json.dumps(raw | {models.RANDOM: 0}))
    for model, kind in ((tiny_model, "real"), (folder, "random")):
        done = bench("once", "--model", model, "--seconds", 1, "--steps", 1, "--threads", 1, "--backend", "torch")
        assert json.loads(done.stdout.splitlines()[-1])["case"]["weights"] == kind


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--model", "nothing"), 3),
        (("--model", "TINY", "--backend", "nothing"), 2),
        (("--model", "TINY", "--seconds", "1e9"), 2),
        (("--model", "TINY", "--seconds", "0"), 2),
        (("--model", "TINY", "--backend", "torch", "--precision", "int8"), 4),
        (("--model", "TINY", "--seconds", "1", "--backend", "bad-nan"), 5),
        (("--model", "TINY", "--seconds", "1", "--backend", "bad-silent"), 5),
    ],
)
def test_errors_are_one_sentence_and_a_code(bench, tiny_model: Path, words: tuple[str, ...], code: int):
    done = bench("once", *(str(tiny_model) if word == "TINY" else word for word in words))
    assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("compare", "other.json", "other.json"), 2, "other.json is not a result of sa3-bench table"),
        (("compare", "bytes", "bytes"), 2, "bytes is not text"),
        (("report", "other.json"), 2, "other.json is not a result of sa3-bench table"),
        (("report", "bytes"), 2, "bytes is not JSON"),
        (("limits", "--device", "abacus"), 2, "no choice 'abacus'; choose from cpu, cuda"),
        (("limits", "--threads", "99999"), 2, "threads 99999; it must be"),
        (("tiers", "--model", "nano", "--backends", "abacus"), 2, "no backend 'abacus'; choose from"),
        (("tiers", "--model", "nano", "--out", "bytes/x"), 6, "cannot write"),
        (("tiers", "--model", "nano", "--name", "a/b"), 2, "'a/b' is not a file's name; --out says the folder"),
        (("table", "--name", ""), 2, "'' is not a file's name"),
    ],
)
def test_files_and_flags_that_are_none(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"schema": 1, "model": "nano"}')
    Path("bytes").write_bytes(b"\x93NUMPY")
    done = bench(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert said in done.stderr


def table(bench, out: Path, model: Path, *words: object) -> subprocess.CompletedProcess[str]:
    base = (
        "table",
        "--models",
        model,
        "--durations",
        "1,2",
        "--steps",
        2,
        "--threads",
        1,
        "--repeat",
        2,
        "--no-limits",
    )
    return bench(*base, "--out", out, "--name", "here", "--work", out / "work", *words)


def test_broken_engines_are_error_rows_and_not_fast_ones(bench, tiny_model: Path, tmp_path: Path):
    names = "torch,bad-nan,bad-short,bad-crash,bad-other"
    done = table(bench, tmp_path, tiny_model, "--durations", "1", "--backends", names)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "here.json").read_text())
    rows = {row["case"]["backend"]: row for row in data["cases"].values()}
    assert rows["torch"]["status"] == "ok"
    for name, reason in {
        "bad-nan": "NaN",
        "bad-short": "",
        "bad-crash": "SIGSEGV",
        "bad-other": "computes something else",
    }.items():
        assert rows[name]["status"] == "error" and reason in rows[name]["reason"], name
    first = next(line for line in done.stdout.splitlines() if line.startswith("| tiny"))
    assert first.count("**error**") == 4
    assert (tmp_path / "here.md").read_text().strip() == done.stdout.strip()
    page = (tmp_path / "here.html").read_text()
    assert "data:audio/mpeg;base64," in page and "computes something else" in page


def test_durations_that_a_model_does_not_make_are_left_out_and_said():
    args = arguments.parse(["table", "--models", "nano", "--durations", "5,500", "--backends", "onnx"])
    said: list[str] = []
    plan = suite._plan(args, "name", said.append)
    assert [case.seconds for case in plan.cases] == [5.0]
    assert said == ["left out 500 s of nano, which makes 20.062 s at most"]
    args = arguments.parse(["table", "--models", "nano", "--durations", "500", "--backends", "onnx"])
    with pytest.raises(InvalidRequest, match="nothing to measure: no engine makes 500 s with nano"):
        suite._plan(args, "name", said.append)


def test_what_cannot_be_measured_leaves_earlier_results(bench, tiny_model: Path, tmp_path: Path):
    (tmp_path / "here.json").write_text("earlier")
    for words, said in (
        (("--backends", "nothing"), "no backend 'nothing'"),
        (("--backends", "torch", "--precision", "fast"), "nothing to measure: no engine makes 1, 2 s with .* in fast"),
    ):
        done = table(bench, tmp_path, tiny_model, *words)
        assert done.returncode == 2 and re.search(said, done.stderr)
    assert (tmp_path / "here.json").read_text() == "earlier"


def test_what_hangs_is_ended(bench, tiny_model: Path, tmp_path: Path):
    done = table(bench, tmp_path, tiny_model, "--durations", "1", "--backends", "bad-hang", "--timeout", "1")
    assert done.returncode == 0 and "no answer within 1 s" in done.stdout


def test_table_resumes_and_adds(bench, tiny_model: Path, tmp_path: Path):
    first = table(bench, tmp_path, tiny_model, "--durations", "1", "--backends", "null", "--no-quality")
    assert first.returncode == 0, first.stderr
    before = json.loads((tmp_path / "here.json").read_text())
    again = table(bench, tmp_path, tiny_model, "--backends", "null", "--batches", "1,2", "--resume", "--no-quality")
    assert again.returncode == 0, again.stderr
    after = json.loads((tmp_path / "here.json").read_text())
    (kept,) = before["cases"]
    assert after["cases"][kept] == before["cases"][kept]
    assert len(after["cases"]) == 4 and len(after["sessions"]) == 2


def test_interleaved_programs_are_compared(bench, tmp_path: Path):
    program = 'echo \'{"runs": [{"generate": %s, "samples": 5}]}\''
    done = bench("interleave", program % 1.0, program % 2.0, "--repeat", 5, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    judged = bench("compare", tmp_path / "A.json", tmp_path / "B.json")
    assert judged.returncode == 7 and "slower" in judged.stdout and ", interleaved" in judged.stdout
    failed = bench("interleave", "exit 3", program % 2.0, "--out", tmp_path)
    assert failed.returncode == 1 and "A (exit 3)" in failed.stderr


def test_history_reads_every_commit(bench, tmp_path: Path):
    from sa3_bench import history
    from sa3_bench.cases import Case

    from .conftest import good, result, write

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    case, folder = Case(model="tiny", seconds=1.0, backend="torch"), tmp_path / "results"
    folder.mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number, seconds in enumerate((2.0, 1.0)):
        write(folder / "here.json", result((case, good([seconds], case))))
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", f"r{number}"], check=True)
    write(folder / "here.json", result((case, good([0.5], case))))
    write(folder / "other.json", {"something": "else"})
    ((_, points),) = history.courses(history.versions(folder)).items()
    assert [p.seconds for p in points] == [2.0, 1.0, 0.5] and "not committed" in points[-1].commit
    done = bench("history", "--results", folder, "--out", tmp_path / "h.html")
    assert done.returncode == 0 and "4.00 times" in done.stdout and "<svg" in (tmp_path / "h.html").read_text()
    with pytest.raises(InvalidRequest):
        history.versions(tmp_path / "nowhere")


def test_the_pytest_suite_shares_the_cases(tiny_model: Path):
    pytest.importorskip("pytest_benchmark")
    asked = {"models": tiny_model, "durations": 1, "backends": "torch,onnx", "rounds": 1, "threads": 1}
    words = [f"--sa3-{name}={value}" for name, value in asked.items()]
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", *words]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed, 7 skipped" in done.stdout and "sa3-export" in done.stdout
