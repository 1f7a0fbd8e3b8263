"""Running cases: saving, resuming, and that what is broken never shows as fast. Processes are faked here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa3_bench import machine, session
from sa3_bench.cases import Case, from_json
from sa3_bench.process import Failed
from sa3_bench.results import Results
from sa3_engines.errors import BackendUnavailable

from .conftest import answer

CASES = [Case(model="tiny", seconds=s, backend="torch", precision="fp32") for s in (1.0, 2.0, 3.0)]
MADE_ON = {"name": "test", "machine": {}, "versions": {"torch": "1"}, "code": {"digest": "d", "commit": None}}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine in a state of our choice."""
    state: dict[str, Any] = {
        "battery": None, "speed_limit_percent": None, "gpus": [], "throttle_count": None, "steal_ticks": None,
        "total_ticks": None, "load_average": [0, 0, 0],
    }  # fmt: skip
    monkeypatch.setattr(machine, "state", lambda: dict(state))
    monkeypatch.setattr(machine, "noise", lambda: {"spread": 0.0})
    return state


class Workers:
    """Stands for the processes: remembers what was run, and answers or fails as told."""

    def __init__(self) -> None:
        self.ran: list[float] = []
        self.stop_at: float | None = None
        self.fail: dict[float, str] = {}

    def __call__(self, command: Sequence[str], timeout: float) -> dict[str, Any]:
        words = dict(pairwise(command))
        case = Case(model="tiny", seconds=float(words["--seconds"]), backend=words["--backend"], precision="fp32")
        if case.seconds == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(case.seconds)
        if case.seconds in self.fail:
            raise Failed(self.fail[case.seconds])
        return answer([1.0, 1.1], case)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, quiet: dict[str, Any]) -> Workers:
    made = Workers()
    monkeypatch.setattr(session, "last_json", made)
    return made


def run(folder: Path, *, resume: bool = False, cases: Sequence[Case] = CASES, **made_on: Any) -> Results:
    kept = Results.begin(folder / "r.json", resume=resume, made_on=MADE_ON | made_on)
    plan = session.Plan(cases=cases, work=folder / "work", quality=False)
    session.run(plan, kept, lambda _: None, lambda _: None)
    return kept


def statuses(folder: Path) -> dict[float, str]:
    rows = json.loads((folder / "r.json").read_text())["cases"].values()
    return {row["case"]["seconds"]: row["status"] for row in rows}


def test_each_case_is_saved_when_it_is_done(tmp_path: Path, workers: Workers):
    workers.stop_at = 3.0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert statuses(tmp_path) == {1.0: "ok", 2.0: "ok"}


def test_resuming_runs_only_what_is_missing(tmp_path: Path, workers: Workers):
    workers.stop_at = 3.0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    workers.stop_at, workers.ran = None, []
    run(tmp_path, resume=True)
    assert workers.ran == [3.0] and statuses(tmp_path) == {1.0: "ok", 2.0: "ok", 3.0: "ok"}


def test_without_resume_everything_runs_again(tmp_path: Path, workers: Workers):
    run(tmp_path)
    workers.ran = []
    run(tmp_path)
    assert workers.ran == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("change", [{"versions": {"torch": "2"}}, {"code": {"digest": "e", "commit": None}}])
def test_other_code_or_versions_run_again(tmp_path: Path, workers: Workers, change: dict[str, Any]):
    run(tmp_path)
    workers.ran = []
    run(tmp_path, resume=True, **change)
    assert workers.ran == [1.0, 2.0, 3.0]


def test_errors_are_tried_again(tmp_path: Path, workers: Workers):
    workers.fail = {2.0: "crashed (SIGSEGV)"}
    kept = run(tmp_path)
    assert statuses(tmp_path) == {1.0: "ok", 2.0: "error", 3.0: "ok"}
    assert kept.data["cases"][CASES[1].key]["reason"] == "crashed (SIGSEGV)"
    workers.fail, workers.ran = {}, []
    run(tmp_path, resume=True)
    assert workers.ran == [2.0] and statuses(tmp_path)[2.0] == "ok"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runs": []}, "no run"),
        ({"runs": [{"generate": float("nan")}]}, "a time of nan"),
        ({"runs": [{"generate": 0}]}, "a time of 0"),
        ({"runs": [{"generate": 0.001, "samples": 64}]}, "64 samples where 1600"),
    ],
)
def test_what_makes_the_wrong_number_of_samples_has_no_time(change: dict[str, Any], reason: str):
    row = session.judged(CASES[0], answer([1.0], CASES[0]) | change)
    assert row["status"] == "error" and reason in row["reason"] and "result" not in row


def test_runs_of_one_seed_that_differ_are_noted():
    made = answer([1.0, 1.0], CASES[0])
    assert session.judged(CASES[0], made)["notes"] == []
    made["runs"][0]["crc32"] = 2
    assert session.judged(CASES[0], made)["notes"] == ["runs of one seed differ"]


def test_an_engine_cannot_beat_the_machines_arithmetic():
    limits = {"cpu": {"gemm_gflops": {"numpy fp32": 100.0}, "bandwidth_gb_s": 10.0}}
    made = answer([1.0], CASES[0])
    assert session.impossible(made, limits) is None
    made["work"]["step"]["seconds"] = 0.001  # 1 GFLOP in a millisecond, where 100 GFLOP/s is the best
    assert "leaves something out: step" in str(session.impossible(made, limits))
    made["support"]["precision"] = "int8"  # its peak was not measured
    assert session.impossible(made, limits) is None
    assert session.impossible(made, {}) is None


def test_another_model_is_an_error_in_its_whole_column(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    good = np.random.default_rng(0).standard_normal(100)
    tiers = {"torch": good, "onnx": good[::-1]}

    def answers(folder: Path, backend: str) -> dict[str, np.ndarray]:
        names = ("velocity 1", "hidden", "latents", "decoded")
        return {name: tiers[backend] for name in names} | {"music": good[None], "roundtrip": good[None, None]}

    monkeypatch.setattr(session, "_parity_file", lambda folder, case: case.backend)
    # The engines are asked once each; torch, which is the reference, first.
    monkeypatch.setattr(session, "_load", lambda backend: answers(tmp_path, backend))
    cases = [*CASES, *(replace(case, backend="onnx") for case in CASES)]
    kept = Results.begin(tmp_path / "r.json", resume=False, made_on=MADE_ON)
    session.run(session.Plan(cases=cases, work=tmp_path), kept, lambda _: None, lambda _: None)
    rows = {(row["case"]["backend"], row["case"]["seconds"]): row for row in kept.data["cases"].values()}
    assert {row["status"] for (backend, _), row in rows.items() if backend == "torch"} == {"ok"}
    for seconds in (1.0, 2.0, 3.0):
        assert "computes something else" in rows["onnx", seconds]["reason"]
    assert workers.ran == [1.0, 2.0, 3.0, 1.0]  # once is enough to know


def test_on_battery_it_refuses_unless_told(tmp_path: Path, workers: Workers, quiet: dict[str, Any]):
    quiet["battery"] = {"plugged": False, "percent": 40.0}
    with pytest.raises(BackendUnavailable, match="on battery"):
        run(tmp_path)
    assert workers.ran == []
    kept = Results.begin(tmp_path / "r.json", resume=False, made_on=MADE_ON)
    session.run(
        session.Plan(cases=CASES[:1], work=tmp_path, quality=False, allow_battery=True),
        kept,
        lambda _: None,
        lambda _: None,
    )
    assert kept.data["sessions"][-1]["troubles"] == ["on battery (40 %)"]
    assert kept.data["cases"][CASES[0].key]["troubles"] == ["on battery (40 %)"]


def test_what_happens_during_a_case_is_noticed():
    calm: dict[str, Any] = {
        "battery": {"plugged": True, "percent": 9.0}, "speed_limit_percent": 100, "throttle_count": {"heat": 5},
        "steal_ticks": 0, "total_ticks": 0,
        "gpus": [{"name": "G", "clocks_throttle_reasons.hw_slowdown": "Not Active"}],
    }  # fmt: skip
    assert machine.troubles(calm) == []
    after = calm | {"throttle_count": {"heat": 7}, "steal_ticks": 10, "total_ticks": 100}
    assert machine.troubles(calm, after) == [
        "throttled 2 times (heat)",
        "10% of the processor went to other guests of its host",
    ]
    hot = calm | {"speed_limit_percent": 60, "gpus": [{"name": "G", "clocks_throttle_reasons.hw_slowdown": "Active"}]}
    assert len(machine.troubles(hot)) == 2


def test_a_case_survives_its_way_through_flags_and_json():
    case = Case(
        model="small-music", weights="random", source="random:small-music", seconds=2.5, batch=3, backend="torch",
        precision="bf16", device="cpu", threads=1, steps=4, seed=7, padding=0.0, chunked=False,
    )  # fmt: skip
    assert from_json(json.loads(json.dumps(case.as_json()))) == case
    from sa3_bench import arguments

    args = arguments.parse(["once", *session.flags(case)])
    told = (args.model, args.source, args.weights_are, args.seconds, args.batch, args.backend, args.precision)
    assert told == ("small-music", "random:small-music", "random", 2.5, 3, "torch", "bf16")
    assert (args.device, args.threads, args.steps, args.seed, args.padding, args.whole_decode) == (
        "cpu",
        1,
        4,
        7,
        0.0,
        True,
    )


def test_the_reference_comes_first():
    onnx, half = replace(CASES[0], backend="onnx"), replace(CASES[0], precision="bf16")
    assert session.ordered([onnx, half, CASES[2], CASES[0]]) == [CASES[0], CASES[2], onnx, half]


def test_a_machines_name_tells_its_widest_units(monkeypatch: pytest.MonkeyPatch):
    """Processors of one name come with and without them, and their results must not replace each other's."""
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    found = {"cpu": "Intel(R) Xeon(R) Processor @ 2.1GHz", "usable_cores": 2, "gpus": []}
    for flags, name in (
        (["AVX2", "AVX512", "AMX-BF16"], "intel-xeon-2-cores-amx-linux"),
        (["AVX2", "AVX512-VNNI"], "intel-xeon-2-cores-avx512-linux"),
        (["AVX2"], "intel-xeon-2-cores-avx2-linux"),
        ([], "intel-xeon-2-cores-linux"),
    ):
        assert machine.name(found | {"flags": flags}) == name
    assert machine.name(found | {"flags": [], "gpus": [{"name": "NVIDIA H100"}]}).endswith("linux-nvidia-h100")
