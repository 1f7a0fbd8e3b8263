"""Gives pages of mapped weight files back to the system once a graph has read them.

They stay in the system's own cache, so reading them again costs next to nothing; what it saves is that a process counts
every weight it ever touched as its own. Linux only: elsewhere, and wherever anything is unusual, it does nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

DONTNEED = 4  # of madvise
KINDS = (".safetensors", ".bin")
HELD, OF_FILE = 0b11 << 62, 1 << 61  # of an entry of /proc/self/pagemap: in memory or in swap; a file's page
PAUSE = 0.05  # seconds; weights are read at a few GB a second at most
OFTEN = 0.005  # seconds between two looks at how much of files is in memory
MOST = 32 << 20  # bytes that a graph may have of its weights
STATM = Path("/proc/self/statm")
_opening = threading.Lock()


@dataclass(frozen=True)
class Span:
    """Addresses at which a weight file is mapped."""

    first: int
    last: int
    shared: bool  # what is written goes into the file: giving pages back loses nothing

    def drop(self, libc: ctypes.CDLL) -> None:
        libc.madvise(ctypes.c_void_p(self.first), ctypes.c_size_t(self.last - self.first), DONTNEED)


class Pages:
    """The mappings of weight files that one graph reads its weights from; see `claimed`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ours: list[tuple[int, int]] = []

    def hold(self, before: Sequence[Span], after: Sequence[Span]) -> None:
        self._ours = list(_without([(span.first, span.last) for span in after], before))

    @contextlib.contextmanager
    def returning(self) -> Generator[None]:
        """Drops them whenever the files this process has in memory grow by more than MOST, and at the end. The graph
        must stay open meanwhile. Those that a page was ever written to are left alone.
        """
        spans = self._safe()
        before = _of_files() if spans else 0  # elsewhere than on Linux there is nothing to ask
        with _dropping(spans, OFTEN, lambda: _of_files() - before > MOST):
            yield

    def _safe(self) -> list[Span]:
        """What is still mapped to those files, in case something else lies there by now."""
        if not self._ours:
            return []
        try:
            with Path("/proc/self/pagemap").open("rb") as pages:
                found = [
                    Span(max(first, span.first), min(last, span.last), span.shared)
                    for span in _spans(self._folder)
                    for first, last in self._ours
                    if first < span.last and span.first < last
                ]
                return [span for span in found if span.shared or not _written(pages, span)]
        except OSError:  # this kernel does not say
            return []


@contextlib.contextmanager
def claimed(folder: Path) -> Generator[Pages]:
    """What is mapped of the folder's weight files within is that graph's, by all of whose openings this is used."""
    pages = Pages(folder)
    if sys.platform != "linux":
        yield pages
        return
    with _opening:
        before = _mapped(folder)
        yield pages
        pages.hold(before, _mapped(folder))


def _mapped(folder: Path) -> list[Span]:
    try:
        return list(_spans(folder))
    except OSError:  # this kernel does not say
        return []


def _without(spans: Iterable[tuple[int, int]], others: Iterable[Span]) -> Iterator[tuple[int, int]]:
    """What of the spans is in none of the others: neighbours of one file count as one mapping."""
    left = list(spans)
    for other in others:
        cut: list[tuple[int, int]] = []
        for first, last in left:
            cut += [(first, min(last, other.first)), (max(first, other.last), last)]
        left = [(first, last) for first, last in cut if first < last]
    yield from left


def _of_files() -> int:
    """Bytes of files that this process has in memory."""
    return int(STATM.read_text().split()[2]) * mmap.PAGESIZE


def release(folder: Path, addresses: np.ndarray) -> None:
    """Drops this process's pages of the folder's weight files, of the shared mappings that hold one of the addresses.
    The caller keeps those alive: others are opened and closed in other threads.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for span in _holding(folder, addresses):
        span.drop(libc)


@contextlib.contextmanager
def returning(folder: Path, addresses: Iterable[int]) -> Generator[None]:
    """Drops pages of the folder's weight files again and again while something reads them from other threads.

    Only the shared mappings that hold one of the addresses: the caller keeps those alive meanwhile. What lies at the
    address of one that went away would be lost.
    """
    spans = _holding(folder, np.fromiter(addresses, np.uint64)) if sys.platform == "linux" else []
    with _dropping(spans, PAUSE, lambda: True):
        yield


@contextlib.contextmanager
def _dropping(spans: Sequence[Span], pause: float, due: Callable[[], bool]) -> Generator[None]:
    """Drops the spans where that is due, looking again after every pause, and at the end."""
    if not spans:
        yield
        return
    done, libc = threading.Event(), ctypes.CDLL(None)

    def drop() -> None:
        for span in spans:
            span.drop(libc)

    def work() -> None:
        while not done.wait(pause):
            if due():
                drop()

    thread = threading.Thread(target=work, name="sa3-mapped", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        drop()


def _holding(folder: Path, addresses: np.ndarray) -> list[Span]:
    try:
        spans = [span for span in _spans(folder) if span.shared]
    except OSError:  # this kernel does not say
        return []
    return [span for span in spans if ((addresses >= span.first) & (addresses < span.last)).any()]


def _spans(folder: Path) -> Iterator[Span]:
    place = str(folder.resolve()) + "/"
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        span, rights, _, _, _, *name = line.split(maxsplit=5)
        if name and name[0].startswith(place) and name[0].endswith(KINDS):
            first, last = (int(end, 16) for end in span.split("-"))
            yield Span(first, last, rights.endswith("s"))


def _written(pages: BinaryIO, span: Span) -> bool:
    """Whether a page of the mapping is no longer the file's: in memory or swapped out, and not of a file."""
    pages.seek(span.first // mmap.PAGESIZE * 8)
    states = np.frombuffer(pages.read((span.last - span.first) // mmap.PAGESIZE * 8), np.uint64)
    held = states & np.uint64(HELD)
    return bool(((held != 0) & (states & np.uint64(OF_FILE) == 0)).any())


def trim() -> None:
    """Gives freed memory back that the C library keeps for later."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
