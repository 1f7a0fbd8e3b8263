"""What these tests share: a miniature checkpoint, and backends that are broken each in its way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sa3_bench.cases import Case

ROOT = Path(__file__).parents[2]
BROKEN = {
    "bad-nan": "return {'velocity': inputs['x'] * float('nan')} if graph == 'step' else super().run(graph, inputs)",
    "bad-silent": "return {n: v * 0 for n, v in super().run(graph, inputs).items()}",
    "bad-short": "out = super().run(graph, inputs); return {n: v[..., :-64] for n, v in out.items()}",
    "bad-crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "bad-hang": "import time; time.sleep(600)",
    # Sound comes out, quickly, and it is nothing of what the model would make.
    "bad-other": "return super().run(graph, inputs)",
}
MODULE = """
from sa3_engines.null import NullBackend, NullEngine

class Engine(NullEngine):
    def run(self, graph, inputs):
        {body}

class Backend(NullBackend):
    name = {name!r}
    def open(self, source, options):
        return Engine(source.config)

BACKEND = Backend()
"""


@pytest.fixture(scope="session")
def tiny_model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of 1600 Hz with random weights, which torch runs in milliseconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(golden / "tiny-small", folder, ignore=shutil.ignore_patterns("cases"))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", "warm", "slow"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(folder / "t5gemma-b-b-ul2" / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def broken_backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: a distribution that registers the broken backends."""
    folder = tmp_path_factory.mktemp("broken")
    points = ["[sa3.backends]"]
    for name, body in BROKEN.items():
        module = name.replace("-", "_")
        (folder / f"{module}.py").write_text(MODULE.format(name=name, body=body))
        points.append(f"{name} = {module}")
    info = folder / "broken-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0\n")
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    return folder


Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(broken_backends: Path) -> Bench:
    """`sa3-bench` in a process of its own."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(broken_backends)}
        command = [sys.executable, "-m", "sa3_bench", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)

    return run


def answer(seconds: list[float], case: Case, rate: int = 1600, started: float = 0.0) -> dict[str, Any]:
    """What `sa3-bench once` prints, with times of our choice."""
    runs = [
        {
            "T": 10, "seconds": case.seconds, "samples": int(case.seconds * rate), "t5": s / 10, "prepare": s / 10,
            "step": s / 20, "loop": s / 2, "decode": s / 5, "finish": 0.0, "generate": s, "first_audio": s,
            "peak_rss_mb": 100.0, "run_peak_rss_mb": 90.0, "device_peak_mb": None, "joules": None, "no_joules": None,
            "started": started + i, "crc32": 1,
        }
        for i, s in enumerate(seconds)
    ]  # fmt: skip
    work = {g: {"calls": 1, "flops": 1e9, "bytes": 1e6, "seconds": 0.1} for g in ("text", "step", "decode")}
    return {
        "case": case.as_json(),
        "support": {"backend": case.backend, "device": "cpu", "precision": "fp32", "versions": {}},
        "load": {"cold": 1.0, "cold_from": "disk", "warm": 0.5, "to_first_clip": 2.0},
        "memory": {"loaded_mb": 80.0, "load_peak_mb": 85.0, "device_mb": None, "device_reserved_mb": None},
        "untimed": {"generate": 1.0, "steps": 2},
        "runs": runs,
        "work": work,
        "output": {"shape": [case.batch, 2, int(case.seconds * rate)], "rate": rate, "peak": 0.5, "warnings": []},
    }


def result(*entries: tuple[Case, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What `sa3-bench table` writes, of these cases and rows."""
    state = {
        "clock_mhz": 2600.0, "temperature_c": None, "load_average": [0.1, 0.1, 0.1], "noise": {"spread": 0.02}
    }  # fmt: skip
    machine = {
        "python": "3.11", "system": "Linux", "cpu": "Test CPU", "flags": ["AVX2"], "cores": 2, "usable_cores": 2,
        "core_limit": None, "memory": 8 << 30, "memory_limit": None, "gpus": [], "warnings": [],
    }  # fmt: skip
    rows = {case.key: {"case": case.as_json(), **row, "made_with": {}} for case, row in entries}
    data = {
        "schema": 1, "name": "test", "machine": machine, "versions": {"numpy": "2"}, "absent": {}, "peers": {},
        "code": {"digest": "d", "commit": "c" * 40, "changed": False}, "quality": {}, "cases": rows,
        "sessions": [{"began": state, "ended": state, "troubles": []}],
        "limits": {"cpu": {"device": "cpu", "threads": 2, "gemm_gflops": {"numpy fp32": 100.0},
                           "bandwidth_gb_s": 10.0, "not_measured": {}}},
    }  # fmt: skip
    return data | more


def good(seconds: list[float], case: Case, **more: Any) -> dict[str, Any]:
    return {"status": "ok", "result": answer(seconds, case, **more), "notes": [], "troubles": []}


def bad(reason: str = "it crashed") -> dict[str, Any]:
    return {"status": "error", "reason": reason}


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(json.dumps(data))
    return path
