"""What the control groups that this process is in hold it to, as a container's are. Reads; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sa3_engines import files

UNLIMITED = 1 << 60  # what version 1 says for no limit is a little under 2**63


def cores(root: Path = Path("/")) -> float | None:
    """How many cores' worth of time: the least of its own group's and those above it, version 1 or 2."""
    found: list[float] = []
    for folder in _folders(root):
        found += _share(_numbers(folder / "cpu.max"))
        found += _share(_numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us"))
    return min(found, default=None)


def memory(root: Path = Path("/")) -> int | None:
    """How many bytes, likewise."""
    found: list[int] = []
    for folder in _folders(root):
        found += _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    return min((bytes_ for bytes_ in found if bytes_ < UNLIMITED), default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Those that this process's groups are told in, from its own up. A container may not have its own, but the top."""
    base = root / "sys/fs/cgroup"
    for line in files.read(root / "proc/self/cgroup").splitlines():
        _, kinds, place = line.split(":", 2)
        for kind in kinds.split(",") if kinds else [""]:
            folder = base / kind / place.lstrip("/")
            while folder.is_relative_to(base):
                yield folder
                folder = folder.parent


def _numbers(path: Path) -> list[int]:
    """`max` and -1, which stand for no limit, are left out."""
    return [int(word) for word in files.read(path).split() if word.isdigit()]


def _share(quota_and_period: list[int]) -> list[float]:
    if len(quota_and_period) != 2 or not quota_and_period[1]:
        return []
    return [quota_and_period[0] / quota_and_period[1]]
