"""Pages of mapped files given back: they go, they can be read again, and what was written stays."""

from __future__ import annotations

import ctypes
import mmap
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sa3_engines import mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
SIZE = 1 << 20


def resident(path: Path) -> int:
    """KiB of a file that this process holds."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.endswith(str(path)):
            ours = True
        elif ours and line.startswith("Rss:"):
            total, ours = total + int(line.split()[1]), False
    return total


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step.bin"
    path.write_bytes(b"weights!" * (SIZE // 8))
    return path


def test_pages_go_and_come_again(file: Path):
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as held:
        assert sum(held[::4096]) and resident(file) >= SIZE >> 10
        mapped.release(file.parent)
        assert resident(file) == 0
        assert held[:8] == b"weights!" and held[-8:] == b"weights!"


def test_what_was_written_stays(file: Path):
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=rights) as held:
        held[:5] = b"other"
        mapped.release(file.parent)
        assert held[:8] == b"otherts!"


def test_other_files_are_left_alone(file: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as held:
        assert sum(held[::4096])
        mapped.release(tmp_path / "elsewhere")
        assert resident(file) >= SIZE >> 10


def shared(path: Path) -> tuple[np.ndarray, int]:
    held = np.memmap(path, np.uint8, "r")
    return held, held.ctypes.data


def test_pages_go_while_they_are_being_read(file: Path):
    held, address = shared(file)
    assert held[::4096].sum() and resident(file) >= SIZE >> 10
    with mapped.returning(file.parent, [address]):
        until = time.monotonic() + 10
        while resident(file) and time.monotonic() < until:
            time.sleep(mapped.PAUSE)
        assert resident(file) == 0
        assert bytes(held[-8:]) == b"weights!"
    assert resident(file) == 0


def test_only_the_callers_own_mappings_are_returned(file: Path):
    """Another's could go away meanwhile, and its addresses be somebody else's."""
    held, address = shared(file)
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=rights) as private:
        private[:5] = b"other"
        assert held[::4096].sum()
        where = ctypes.addressof(ctypes.c_char.from_buffer(private))
        for addresses in ([], [id(file)], [where], [address + len(held) + mmap.PAGESIZE]):
            with mapped.returning(file.parent, addresses):
                time.sleep(2 * mapped.PAUSE)
            assert resident(file) >= SIZE >> 10
        assert private[:8] == b"otherts!"


def test_trimming_does_no_harm():
    mapped.trim()
