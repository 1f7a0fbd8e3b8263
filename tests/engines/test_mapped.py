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

from .conftest import resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step.bin"
    path.write_bytes(b"weights!" * (SIZE // 8))
    return path


def shared(path: Path) -> tuple[np.ndarray, int]:
    held = np.memmap(path, np.uint8, "r")
    return held, held.ctypes.data


def test_pages_go_and_come_again(file: Path):
    held, address = shared(file)
    assert held[::4096].sum() and resident(file) >= SIZE >> 10
    mapped.release(file.parent, np.array([address], np.uint64))
    assert resident(file) == 0
    assert bytes(held[:8]) == b"weights!" == bytes(held[-8:])


@pytest.mark.parametrize("mine", [True, False])
def test_what_others_have_mapped_is_left_alone(file: Path, tmp_path: Path, mine: bool):
    """Other graphs, which may be gone by then, and other folders."""
    (tmp_path / "elsewhere").mkdir()
    held, address = shared(file)
    assert held[::4096].sum()
    mapped.release(tmp_path / "elsewhere" if mine else file.parent, np.array([address] * mine, np.uint64))
    assert resident(file) >= SIZE >> 10


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


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as is always in memory of files is too much."""
    monkeypatch.setattr(mapped, "MOST", -1)


def until_gone(path: Path) -> int:
    until = time.monotonic() + 10
    while resident(path) and time.monotonic() < until:
        time.sleep(mapped.OFTEN)
    return resident(path)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("kind", [mmap.MAP_PRIVATE, mmap.MAP_SHARED])
def test_a_graphs_pages_go_while_it_runs(file: Path, kind: int):
    with file.open("rb") as opened:
        with mapped.claimed(file.parent) as pages:
            held = mmap.mmap(opened.fileno(), 0, flags=kind, prot=mmap.PROT_READ)
        with held:
            assert sum(held[::4096]) and resident(file) >= SIZE >> 10
            with pages.returning():
                assert until_gone(file) == 0
                assert sum(held[::4096]) and held[-8:] == b"weights!"
            assert resident(file) == 0


def test_a_graphs_pages_go_at_the_end_where_they_are_few(file: Path):
    with file.open("rb") as opened:
        with mapped.claimed(file.parent) as pages:
            held = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        with held:
            with pages.returning():
                assert sum(held[::4096])
                time.sleep(4 * mapped.OFTEN)
                assert resident(file) >= SIZE >> 10
            assert resident(file) == 0


@pytest.mark.usefixtures("little")
def test_another_graphs_pages_stay(file: Path):
    """Whatever was there before, also where the system counts the two as one mapping, and what was written to."""
    half, rights = SIZE // 2, mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened:
        before = mmap.mmap(opened.fileno(), half, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        with mapped.claimed(file.parent) as pages:
            after = mmap.mmap(opened.fileno(), half, flags=mmap.MAP_PRIVATE, prot=rights, offset=half)
        with before, after:
            after[:5] = b"other"
            assert sum(before[::4096]) and resident(file) >= half >> 10
            with pages.returning():
                time.sleep(4 * mapped.OFTEN)
            assert resident(file) >= half >> 10
            assert after[:8] == b"otherts!"


@pytest.mark.usefixtures("little")
def test_a_graph_that_was_closed_gives_nothing_back(file: Path):
    """Its addresses may be anybody's by now."""
    with file.open("rb") as opened:
        with mapped.claimed(file.parent) as pages:
            held = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        held.close()
        own = mmap.mmap(-1, SIZE)
        own[:] = b"x" * SIZE
        with pages.returning():
            time.sleep(4 * mapped.OFTEN)
        assert own[:] == b"x" * SIZE


def test_what_is_left_of_a_mapping():
    spans = [mapped.Span(10, 20, True), mapped.Span(30, 40, True)]
    assert list(mapped._without([(0, 50)], spans)) == [(0, 10), (20, 30), (40, 50)]
    assert list(mapped._without([(12, 18), (15, 35)], spans)) == [(20, 30)]
    assert list(mapped._without([(50, 60)], spans)) == [(50, 60)]


def test_trimming_does_no_harm():
    mapped.trim()
