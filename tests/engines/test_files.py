"""Files that may not be there, and files that are written whole or not at all."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sa3_engines import files


def test_what_is_not_there_says_nothing(tmp_path: Path):
    assert files.read(tmp_path / "none") == files.read(tmp_path) == ""
    (tmp_path / "odd").write_bytes(b"caf\xe9")
    assert files.read(tmp_path / "odd").startswith("caf")


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    with files.replacing(path) as file:
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_one(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    with pytest.raises(error), files.replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_a_folder_takes(tmp_path: Path):
    path = tmp_path / ("x" * 255)
    with files.replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_others_may_read_it_as_any_new_file(tmp_path: Path):
    with files.replacing(tmp_path / "new"):
        pass
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode


def test_of_two_that_write_at_once_one_wins(tmp_path: Path):
    path = tmp_path / "kept"

    def write(byte: int) -> None:
        for _ in range(50):
            with files.replacing(path) as file:
                file.write(bytes([byte]) * 100_000)

    write(0)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(write, byte) for byte in (1, 2)]
        while not all(one.done() for one in both):
            found = path.read_bytes()
            assert len(found) == 100_000 and len(set(found)) == 1
        for one in both:
            one.result()
    assert list(tmp_path.iterdir()) == [path]
