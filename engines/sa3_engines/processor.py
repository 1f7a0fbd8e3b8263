"""What this machine's processor can do, read from the system. Computes nothing."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from math import ceil
from pathlib import Path

from sa3_engines import cgroup, files


@cache
def flags(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets by their names in /proc/cpuinfo; empty where the system does not say."""
    return frozenset(read(root)[1])


def read(root: Path = Path("/")) -> tuple[str, list[str]]:
    """The processor's name, and its flags in the system's order."""
    text = files.read(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return name, found[1].split() if found else []


def name() -> str:
    return read()[0]


def described() -> str:
    """What speed depends on, in words: the processor, how many cores this process may use, and their widest units."""
    units = [unit for unit in ("amx_int8", "amx_bf16", "amx_fp16", "avx512_bf16", "avx512_vnni") if unit in flags()]
    return f"{name()}, {cores()} cores" + (f", {' '.join(units)}" if units else "")


def half_precision(flags: frozenset[str]) -> tuple[str, str] | None:
    """The half precision to prefer and the instructions it needs. Of two that are as fast, fp16 keeps more digits."""
    for kind, instruction in (
        ("fp16", "amx_fp16"),
        ("bf16", "amx_bf16"),
        ("fp16", "avx512_fp16"),
        ("bf16", "avx512_bf16"),
    ):
        if instruction in flags:
            return kind, instruction
    return None


def bf16(flags: frozenset[str]) -> str | None:
    """The instructions for it, where there are any."""
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


def products_of_bytes(flags: frozenset[str]) -> str | None:
    """The instructions for them, where there are any."""
    return next((name for name in ("avx512_vnni", "avx_vnni") if name in flags), None)


def cores(root: Path = Path("/")) -> int:
    """As many threads as are worth having: one for each core this process may use and has the time of. Threads wait for
    each other all the time, so that one too many makes all of them slow.
    """
    limit = cgroup.cores(root)
    return usable() if limit is None else max(1, min(usable(), ceil(limit)))


def usable() -> int:
    """The cores this process may run on: in a container maybe fewer than the machine's, and not all of their time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
