import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import bundle, models, null, selection
from sa3_engines.errors import BadOutput
from sa3_runtime import machine
from sa3_runtime.cli import main
from sa3_runtime.command import doctor
from sa3_runtime.command.doctor import Auto, Export, Failed, Probe, Report, TierSeen

ONLY_NULL = "random:small-music"


def square(value: int) -> int:
    return value * value


def broken(what: str) -> None:
    raise RuntimeError(what)


def noisy() -> int:
    os.write(1, b"a library greets")
    return 1


# A process for each probe


def test_what_a_probe_returns_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor.isolated(square, 7) == 49
    assert doctor.isolated(noisy) == 1
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("work", "args", "timeout", "said"),
    [
        (broken, ("no driver",), 60, "RuntimeError: no driver"),
        (doctor.survey, ("tpu",), 60, "no backend 'tpu'; choose from"),
        (os._exit, (3,), 60, "it crashed (exit code 3)"),
        (time.sleep, (60,), 0.5, "no answer within 0.5 s"),
        pytest.param(
            os.abort, (), 60, "it crashed (SIGABRT)", marks=pytest.mark.skipif(os.name == "nt", reason="signals")
        ),
    ],
)
def test_a_probe_that_ends_badly_says_why(
    work: Callable[..., Any], args: tuple[Any, ...], timeout: float, said: str
) -> None:
    start = time.monotonic()
    with pytest.raises(Failed) as failed:
        doctor.isolated(work, *args, timeout=timeout)
    assert str(failed.value).startswith(said)
    assert failed.value.exit_code == (2 if args == ("tpu",) else 4)
    assert time.monotonic() - start < 30


# Backends


def test_a_graph_runs_on_a_backend() -> None:
    seen, devices = doctor.survey("null")
    assert (seen, devices) == (Probe(backend="null"), ["cpu"])
    found = doctor.probe(seen, "cpu", ONLY_NULL)
    assert (found.problem, found.model, found.generated) == (None, ONLY_NULL, None)
    assert found.seconds is not None and found.seconds > 0
    assert (doctor.probe(seen, "cpu", ONLY_NULL, deep=True).generated or 0) > 0
    assert doctor.probe(seen, "cpu", "random:same-s", deep=True).problem is None


def test_a_constant_is_no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    run = null.NullEngine.run

    def silent(self: Any, graph: str, inputs: Any) -> Any:
        return {name: value * 0 for name, value in run(self, graph, inputs).items()}

    monkeypatch.setattr(null.NullEngine, "run", silent)
    with pytest.raises(BadOutput, match="the decoder produced silence"):
        doctor.probe(Probe(backend="null"), "cpu", ONLY_NULL)


def test_a_model_in_a_form_a_backend_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null.NullBackend, "why_not_open", lambda self, source: "it has no graphs")
    with pytest.raises(doctor.BackendUnavailable, match=f"cannot open {ONLY_NULL}: it has no graphs"):
        doctor.probe(Probe(backend="null"), "cpu", ONLY_NULL)


def test_what_is_taken_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "names", lambda: ("null",))
    found = doctor.try_auto(ONLY_NULL)
    assert (found.backend, found.device, found.precision, found.refused) == ("null", "cpu", "fp32", ())
    assert found.problem is None and found.seconds_to_make is not None


def test_the_whole_examination(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "names", lambda: ("tpu", "torch"))
    told: list[str] = []
    report = doctor.examine(str(tiny_model), tell=told.append)
    assert [p.backend for p in report.probes] == ["tpu", *(["torch"] * (len(report.probes) - 1))]
    assert "no backend 'tpu'" in (report.probes[0].problem or "")
    cpu = report.probes[-1]
    assert (cpu.device, cpu.problem, cpu.model) == ("cpu", None, str(tiny_model))
    assert "torch" in cpu.versions
    assert "torch on cpu" in told


# The command


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    looked = machine.Machine(
        version="0.1.0",
        python="3.11.7",
        system="Linux",
        cpu="A CPU",
        flags=["AVX2"],
        cores=8,
        usable_cores=2,
        core_limit=1.5,
        memory=16 << 30,
        available=8 << 30,
        memory_limit=4 << 30,
        cache="/cache",
        offline=True,
        warnings=["two owners"],
    )
    probes = [
        Probe(backend="onnx", device="cpu", versions={"onnxruntime": "1.31"}, model="nano", seconds=0.012),
        Probe(backend="torch", problem="PyTorch is not installed"),
    ]
    auto = Auto(
        model="nano",
        backend="onnx",
        device="cpu",
        precision="fp32",
        refused=("tensorrt: no GPU",),
        seconds_to_load=0.2,
        seconds_to_make=0.5,
    )
    seen = [
        TierSeen(name="exact", type="fp32", cosine=1.0, snr_db=118.2, step_seconds=0.8),
        TierSeen(name="high", type="bf16", cosine=0.99995, snr_db=40.1, step_seconds=0.4, problem="no units"),
    ]
    bundles = [
        Export(folder="/b", model="nano", backends=("onnx",), seconds="0 to 20 s", measured_on="A CPU", tiers=seen),
        Export(folder="/c", problem="step.onnx was changed"),
    ]
    found = Report(machine=looked, probes=probes, bundles=bundles, auto=auto)
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: found)
    return found


def test_the_report_is_shown(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == (
        "sa3-runtime  0.1.0, Python 3.11.7, Linux\n"
        "processor    A CPU; 2 of 8 cores usable, held to 1.5 of them by its cgroup; AVX2\n"
        "memory       8.0 GiB of 16.0 GiB available, held to 4.0 GiB by its cgroup\n"
        "downloads    /cache (offline: HF_HUB_OFFLINE is set)\n"
        "warning: two owners\n"
        "\n"
        "backend  device  versions          result\n"
        "onnx     cpu     onnxruntime 1.31  ran: decoded in 12 ms with nano\n"
        "torch    -       -                 PyTorch is not installed\n"
        "\n"
        "bundle  engine  tier          likeness          one step\n"
        "nano    onnx    exact (fp32)  1.000000, 118 dB  800 ms    for 0 to 20 s; measured on A CPU\n"
        "nano    onnx    high (bf16)   0.999950, 40 dB   400 ms    no units\n"
        "/c      -       -             -                 -         step.onnx was changed\n"
        "\n"
        "nano runs on onnx, cpu, fp32: loaded in 0.20 s, made 1 s of sound in 0.50 s\n"
        "  not on tensorrt: no GPU\n"
    )
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["healthy"], told["probes"][1]["problem"]) == (True, "PyTorch is not installed")


@pytest.mark.parametrize("code", [3, 4])
def test_the_exit_code_is_of_what_is_wrong(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sick = replace(report, auto=Auto(model="nano", problem="no backend can run nano", exit_code=code))
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: sick)
    assert main(["doctor"]) == code
    assert capsys.readouterr().out.endswith("\nnano does not work here: no backend can run nano\n")


# The machine


def put(root: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_this_machine() -> None:
    found = machine.look()
    assert found.cpu and found.cores >= found.usable_cores >= 1
    assert found.memory is None or found.memory > 1 << 28
    assert found.warnings == []


def test_processor_and_memory(tmp_path: Path) -> None:
    put(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: sse avx2 avx512f amx_int8\n",
        proc__meminfo="MemTotal:  1024 kB\nMemFree: 2 kB\nMemAvailable:  512 kB\n",
    )
    found = machine.look(tmp_path)
    assert (found.cpu, found.flags) == ("Fast CPU", ["AVX2", "AVX512", "AMX-INT8"])
    assert (found.memory, found.available, found.memory_limit, found.core_limit) == (1 << 20, 1 << 19, None, None)
    put(tmp_path, proc__cpuinfo="BogoMIPS : 1\nFeatures : fp asimd asimddp i8mm\n")
    assert machine.look(tmp_path).flags == ["NEON", "DOTPROD", "I8MM"]


def test_an_unknown_system(tmp_path: Path) -> None:
    found = machine.look(tmp_path)
    assert (found.flags, found.memory_limit, found.core_limit) == ([], None, None)


def test_limits_of_a_cgroup_are_the_least_on_the_way_up(tmp_path: Path) -> None:
    put(tmp_path, proc__self__cgroup="0::/a/b\n", proc__meminfo="MemTotal: 4096 kB\n")
    top = tmp_path / "sys" / "fs" / "cgroup"
    put(top, a__b__memory_max="max")
    for place, memory, cpu in (("a/b", "max", "max 100000"), ("a", "1048576", "150000 100000")):
        (top / place / "memory.max").write_text(memory)
        (top / place / "cpu.max").write_text(cpu)
    found = machine.look(tmp_path)
    assert (found.memory_limit, found.core_limit) == (1 << 20, 1.5)


def test_limits_of_a_version_1_cgroup(tmp_path: Path) -> None:
    put(tmp_path, proc__self__cgroup="4:memory:/x\n2:cpu,cpuacct:/x\n", proc__meminfo="MemTotal: 4096 kB\n")
    for kind, name, text in (
        ("memory", "memory.limit_in_bytes", "9223372036854771712"),
        ("memory/x", "memory.limit_in_bytes", "2097152"),
        ("cpu/x", "cpu.cfs_quota_us", "50000"),
        ("cpu/x", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "-1"),
    ):
        folder = tmp_path / "sys" / "fs" / "cgroup" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = machine.look(tmp_path)
    assert (found.memory_limit, found.core_limit) == (2 << 20, 0.5)


def test_another_owner_of_our_package_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"stable_audio_3": ["stable-audio-3", "sa3-runtime"], "numpy": ["numpy"]}
    monkeypatch.setattr(machine, "packages_distributions", lambda: owners)
    (warning,) = machine.look().warnings
    assert warning.startswith("stable-audio-3 also installs the package stable_audio_3")


def test_bundles_on_this_machine_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "sa3-runtime" / "bundles" / "gone-onnx"
    broken.mkdir(parents=True)
    (broken / "step.onnx").write_text("")
    found = doctor.exports("nano", deep=True)
    assert [one.model for one in found] == ["nano", ""]
    assert [tier.name for tier in found[0].tiers] == ["exact"] and found[0].tiers[0].cosine > 0.99999
    assert "is unfinished: there are graphs and no manifest.json" in (found[1].problem or "")


def test_a_deep_look_reads_the_bundle_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    shutil.copytree(models.HERE / "nano", folder)
    bundle.read(folder)
    graph, before = folder / "step.onnx", (folder / "step.onnx").stat()
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    os.utime(graph, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that lost a bit
    assert [one.problem for one in doctor.exports(str(folder), deep=False)] == [None, None]
    assert "step.onnx was changed" in (doctor.exports(str(folder), deep=True)[1].problem or "")
    assert "step.onnx was changed" in (doctor._broken(str(folder), doctor.exports(str(folder), deep=True)) or "")
