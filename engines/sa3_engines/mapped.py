"""Gives pages of mapped weight files back to the system once a graph has read them.

They stay in the system's own cache, so reading them again costs next to nothing; what it saves is that a process counts
every weight it ever touched as its own. Linux only: elsewhere, and wherever anything is unusual, it does nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

DONTNEED = 4  # of madvise
KINDS = (".safetensors", ".bin")
HELD, OF_FILE = 0b11 << 62, 1 << 61  # of an entry of /proc/self/pagemap: in memory or in swap; a file's page


def release(folder: Path) -> None:
    """Drops this process's pages of the weight files in a folder and below. A mapping of which a page was ever written
    to is left alone: it would lose what was written.
    """
    if sys.platform != "linux":
        return
    place = str(folder.resolve()) + "/"
    libc = ctypes.CDLL(None)
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
        with Path("/proc/self/pagemap").open("rb") as pages:
            for line in lines:
                span, _, _, _, _, *name = line.split(maxsplit=5)
                if not name or not name[0].startswith(place) or not name[0].endswith(KINDS):
                    continue
                first, last = (int(end, 16) for end in span.split("-"))
                if not _written(pages, first, last):
                    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONTNEED)
    except OSError:  # this kernel does not say
        return


def _written(pages: BinaryIO, first: int, last: int) -> bool:
    """Whether a page of the mapping is no longer the file's: in memory or swapped out, and not of a file."""
    pages.seek(first // mmap.PAGESIZE * 8)
    states = np.frombuffer(pages.read((last - first) // mmap.PAGESIZE * 8), np.uint64)
    held = states & np.uint64(HELD)
    return bool(((held != 0) & (states & np.uint64(OF_FILE) == 0)).any())


def trim() -> None:
    """Gives freed memory back that the C library keeps for later."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
