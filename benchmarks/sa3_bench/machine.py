"""What the measurements were made on and in what state it was: hardware, versions, clocks, power, heat, noise."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sa3_bench import stats
from sa3_runtime import machine as hardware

PACKAGES = (
    "sa3-runtime", "numpy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "coremltools",
    "ai-edge-litert", "transformers", "diffusers", "tokenizers", "soxr",
)  # fmt: skip
CODE = ("sa3_engines", "sa3_runtime", "stable_audio_3")  # what a result depends on
UNITS = ("AMX", "AVX512", "AVX2")
NOISY = 0.10  # spread of the probe's times from which on a machine is called noisy
GPU = ("name", "driver_version", "temperature.gpu", "clocks.sm", "clocks.max.sm", "power.draw", "memory.total",
       "clocks_throttle_reasons.hw_slowdown", "clocks_throttle_reasons.hw_thermal_slowdown",
       "clocks_throttle_reasons.sw_thermal_slowdown", "clocks_throttle_reasons.sw_power_cap")  # fmt: skip


def identity() -> dict[str, Any]:
    """What stays the same over a session."""
    look = asdict(hardware.look())
    kept = ("python", "system", "cpu", "flags", "cores", "usable_cores", "core_limit", "memory", "memory_limit")
    gpus = [{name: one[name] for name in ("name", "driver_version", "memory.total")} for one in _gpus()]
    return {name: look[name] for name in kept} | {"gpus": gpus, "warnings": look["warnings"]}


def name(found: dict[str, Any]) -> str:
    """A file's name for this machine: its processor, its cores, its widest units, which models of one name may differ
    in, and its GPU.
    """
    units = next((unit for unit in UNITS if any(flag.startswith(unit) for flag in found["flags"])), "")
    parts = [found["cpu"], f"{found['usable_cores']} cores", units, platform.system()]
    parts += [gpu["name"] for gpu in found["gpus"][:1]]
    plain = re.sub(r"\((?:r|tm)\)|\bcpu\b|\bprocessor\b|@ *[0-9.]+ *ghz", " ", " ".join(map(str, parts)).lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code() -> dict[str, Any]:
    """The commit where there is one, and a digest of the sources that were really used."""
    digest = hashlib.sha256()
    root: Path | None = None
    for package in CODE:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        root = root or folder.parent
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.json")]):
            digest.update(f"{package}/{path.relative_to(folder)}\0".encode() + path.read_bytes())
    commit = _said("git", "-C", str(root or "."), "rev-parse", "HEAD")
    changed = _said("git", "-C", str(root or "."), "status", "--porcelain", "--", *CODE, "engines", "exporters")
    return {"digest": digest.hexdigest()[:16], "commit": commit, "changed": bool(changed) if commit else None}


def state() -> dict[str, Any]:
    """How the machine is at this moment. What cannot be read is None."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    steal, total = _ticks()
    return {
        "at": time.time(),
        "load_average": list(load) if load else None,
        "clock_mhz": _clock(),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "temperature_c": _temperature(),
        "battery": _battery(),
        "throttle_count": _throttled(),
        "speed_limit_percent": _mac_limit(),
        "steal_ticks": steal,
        "total_ticks": total,
        "gpus": _gpus(),
    }


def noise(tries: int = 40) -> dict[str, float]:
    """How unevenly the same work runs: about a second of products of a few milliseconds each."""
    a = np.ones((768, 768), np.float32)
    for _ in range(3):
        np.matmul(a, a)
    times: list[float] = []
    for _ in range(tries):
        start = time.perf_counter()
        np.matmul(a, a)
        times.append(time.perf_counter() - start)
    return {"median_s": stats.median(times), "spread": stats.spread(times), "worst": max(times) / stats.median(times)}


def troubles(before: dict[str, Any], after: dict[str, Any] | None = None) -> list[str]:
    """Why times taken in this state should not be trusted; with a later state, also what happened in between."""
    found: list[str] = []
    battery = before["battery"]
    if battery is not None and not battery["plugged"]:
        found.append(f"on battery ({battery['percent']:.0f} %)")
    limit = before["speed_limit_percent"]
    if limit is not None and limit < 100:
        found.append(f"throttled: the system holds the processor to {limit} % of its speed")
    for gpu in before["gpus"]:
        reasons = [n.rpartition(".")[2] for n in GPU if "throttle" in n and gpu.get(n) == "Active" and "cap" not in n]
        if reasons:
            found.append(f"throttled: {gpu['name']}: {', '.join(reasons)}")
    if after is not None:
        found += _happened(before, after)
    return found


def _happened(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for kind, count in (after["throttle_count"] or {}).items():
        more = count - (before["throttle_count"] or {}).get(kind, count)
        if more > 0:
            found.append(f"throttled {more} times ({kind})")
    if after["steal_ticks"] is not None and before["steal_ticks"] is not None:
        span = after["total_ticks"] - before["total_ticks"]
        stolen = (after["steal_ticks"] - before["steal_ticks"]) / span if span else 0.0
        if stolen > 0.01:
            found.append(f"{stolen:.0%} of the processor went to other guests of its host")
    return found


# Where these facts are


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _said(*command: str) -> str | None:
    """What a program prints, or None where there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _psutil() -> Any:
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _clock() -> float | None:
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    if found:
        return float(np.mean([float(one) for one in found]))
    psutil = _psutil()
    frequency = psutil.cpu_freq() if psutil is not None and hasattr(psutil, "cpu_freq") else None
    return None if frequency is None else float(frequency.current)


def _temperature() -> float | None:
    found = [_text(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    values = [int(one) / 1000 for one in found if one and one.lstrip("-").isdigit()]
    return max(values, default=None)


def _battery() -> dict[str, Any] | None:
    psutil = _psutil()
    found = psutil.sensors_battery() if psutil is not None and hasattr(psutil, "sensors_battery") else None
    return None if found is None else {"plugged": bool(found.power_plugged), "percent": float(found.percent)}


def _throttled() -> dict[str, int] | None:
    """Counters that only grow: by heat, and by a container's quota."""
    heat = [_text(path) for path in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")]
    found = {"heat": sum(int(one) for one in heat if one)} if heat else {}
    quota = re.search(r"^nr_throttled (\d+)", _text(Path("/sys/fs/cgroup/cpu.stat")) or "", re.MULTILINE)
    if quota:
        found["the container's quota"] = int(quota[1])
    return found or None


def _mac_limit() -> int | None:
    found = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", _said("pmset", "-g", "therm") or "")
    return int(found[1]) if found else None


def _ticks() -> tuple[int | None, int | None]:
    """Processor time taken by a hypervisor for others, and all of it."""
    line = (_text(Path("/proc/stat")) or "").partition("\n")[0].split()
    if len(line) < 9:
        return None, None
    numbers = [int(word) for word in line[1:9]]
    return numbers[7], sum(numbers)


def _gpus() -> list[dict[str, str]]:
    said = _said("nvidia-smi", f"--query-gpu={','.join(GPU)}", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in said.splitlines()] if said else []
    return [dict(zip(GPU, row, strict=True)) for row in rows if len(row) == len(GPU)]
