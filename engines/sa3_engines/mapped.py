"""Gives pages of mapped weight files back to the system once a graph has read them.

They stay in the system's own cache, so reading them again costs next to nothing; what it saves is that a process counts
every weight it ever touched as its own. Linux only: elsewhere, and wherever anything is unusual, it does nothing.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

DONTNEED = 4  # of madvise
KINDS = (".safetensors", ".bin")
_SPAN = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)")  # a mapping without a name begins one too


def release(folder: Path) -> None:
    """Drops this process's pages of the weight files in a folder and below. A mapping of which a page was ever written
    to is left alone: it would lose what was written.
    """
    if sys.platform != "linux":
        return
    try:
        text = Path("/proc/self/smaps").read_text(errors="replace")
    except OSError:
        return
    place = str(folder.resolve()) + "/"
    libc = ctypes.CDLL(None)
    first = last = 0
    for line in text.splitlines():
        span = _SPAN.match(line)
        if span:
            ours = span[3].startswith(place) and span[3].endswith(KINDS)
            first, last = (int(span[1], 16), int(span[2], 16)) if ours else (0, 0)
        elif last and line.startswith("Anonymous:") and line.split()[1] == "0":
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONTNEED)


def trim() -> None:
    """Gives freed memory back that the C library keeps for later."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
