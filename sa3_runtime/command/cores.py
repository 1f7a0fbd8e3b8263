"""Keeps this process on some of the processor's cores; engines then use that many threads."""

from __future__ import annotations

import os
import re

from sa3_engines.errors import InvalidRequest


def pin(text: str) -> None:
    wanted = parse(text)
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidRequest("--cores: this system does not let a program choose its cores; use --threads")
    usable = os.sched_getaffinity(0)
    if not wanted <= usable:
        odd = ", ".join(map(str, sorted(wanted - usable)))
        raise InvalidRequest(f"--cores {text}: {odd} cannot be used; this process has {_shown(usable)}")
    os.sched_setaffinity(0, wanted)


def parse(text: str) -> set[int]:
    """`0-3,6` as numbers."""
    found: set[int] = set()
    for part in text.split(","):
        span = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise InvalidRequest(f"--cores {text!r}: write numbers and ranges, as in 0-3,6")
        found |= set(range(int(span[1]), int(span[2] or span[1]) + 1))
    return found


def _shown(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
