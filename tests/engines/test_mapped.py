"""Pages of mapped files given back: they go, they can be read again, and what was written stays."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

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


def test_trimming_does_no_harm():
    mapped.trim()
