"""What this machine is, as far as running a model goes. Reads; changes and computes nothing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

from sa3_engines import cgroup, files, processor

# By their names in /proc/cpuinfo: what kernels choose their code by.
FLAGS: Mapping[str, str] = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    version: str  # of sa3-runtime
    python: str
    system: str
    cpu: str
    flags: list[str]
    cores: int
    usable_cores: int
    core_limit: float | None  # of the cgroup
    memory: int | None  # bytes
    available: int | None
    memory_limit: int | None  # of the cgroup
    cache: str
    offline: bool
    warnings: list[str]


def look(root: Path = Path("/")) -> Machine:
    from huggingface_hub import constants

    model, flags = _cpu(root)
    total, available = _memory(root)
    limit = cgroup.memory(root)
    return Machine(
        version=version("sa3-runtime"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=model,
        flags=flags,
        cores=os.cpu_count() or 1,
        usable_cores=processor.usable(),
        core_limit=cgroup.cores(root),
        memory=total,
        available=available,
        memory_limit=limit if limit is not None and (total is None or limit < total) else None,
        cache=constants.HF_HUB_CACHE,
        offline=constants.HF_HUB_OFFLINE,
        warnings=_other_owner(packages_distributions()),
    )


def _other_owner(owners: Mapping[str, list[str]]) -> list[str]:
    others = sorted(set(owners.get("stable_audio_3", [])) - {"sa3-runtime"})
    if not others:
        return []
    return [
        f"{', '.join(others)} also installs the package stable_audio_3, over or under ours: which of the two is "
        "imported is chance; keep one of them, each in its own environment"
    ]


def _cpu(root: Path) -> tuple[str, list[str]]:
    name, have = processor.read(root)
    return name, [shown for flag, shown in FLAGS.items() if flag in have]


def _memory(root: Path) -> tuple[int | None, int | None]:
    text = files.read(root / "proc/meminfo")
    found = {name: int(kb) * 1024 for name, kb in re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", text, re.M)}
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    return found.get("MemTotal"), found.get("MemAvailable")
