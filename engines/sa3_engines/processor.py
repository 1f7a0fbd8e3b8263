"""What this machine's processor can do, read from the system. Computes nothing."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path


@cache
def flags(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets by their names in /proc/cpuinfo; empty where the system does not say."""
    return frozenset(read(root)[1])


def read(root: Path = Path("/")) -> tuple[str, list[str]]:
    """The processor's name, and its flags in the system's order."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not this system, or not for this account
        text = ""
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return name, found[1].split() if found else []


def name() -> str:
    return read()[0]
