import os
from pathlib import Path

import numpy as np
import pytest

from sa3_engines.errors import InvalidRequest, OutputError
from sa3_runtime import sidecar


def test_a_record_comes_back(tmp_path: Path) -> None:
    path, record = tmp_path / "a.json", {"prompt": "lo-fi é漢字", "seed": 7, "steps": [1, 2], "none": None}
    sidecar.write(path, record)
    assert sidecar.read(path) == record
    assert "漢字" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_keys_does_not_depend_on_the_caller(tmp_path: Path) -> None:
    sidecar.write(tmp_path / "a.json", {"b": 1, "a": {"d": 1, "c": 2}})
    sidecar.write(tmp_path / "b.json", {"a": {"c": 2, "d": 1}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_numpy_values_and_paths_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    sidecar.write(path, {"seed": np.int64(3), "gain": np.float32(0.5), "sigmas": np.ones(2), "init": Path("a.wav")})
    assert sidecar.read(path) == {"seed": 3, "gain": 0.5, "sigmas": [1, 1], "init": "a.wav"}


def test_file_names_that_are_not_utf8_can_be_recorded(tmp_path: Path) -> None:
    sidecar.write(tmp_path / "a.json", {"init": os.fsdecode(b"\xff.wav")})
    assert sidecar.read(tmp_path / "a.json")["init"] == "\udcff.wav"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"1", b"{}", b'{"schema": "1"}', b'{"schema": true}']
)
def test_what_is_not_a_sidecar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"'.*a\.json' is not a sidecar"):
        sidecar.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"{", "it breaks off before its end"),
        (b'{"schema": 1,\n "a" 2}', "it is no JSON from line 2, column 6 on"),
        (b"\xff\xfe\x00", "it is not text in UTF-8"),
        (b"[" * 100_000, "it is nested too deep"),
        (b"[" + b"1" * 5000 + b"]", "it holds a number that is too long"),
        (b"[]", "it has no 'schema' number, so this toolkit did not write it"),
    ],
)
def test_why_it_is_none_is_said_in_plain_words(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        sidecar.read(tmp_path / "a.json")
    assert str(refused.value).endswith(f"a.json' is not a sidecar: {said}")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema": 2}')
    with pytest.raises(InvalidRequest, match="newer than the 1 read here"):
        sidecar.read(tmp_path / "a.json")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        sidecar.read(tmp_path / "a.json")
    with pytest.raises(InvalidRequest, match="cannot read"):
        sidecar.read(tmp_path)
    with pytest.raises(InvalidRequest, match="no file has such a name"):
        sidecar.read("a\0b.json")
    with pytest.raises(OutputError, match="does not exist"):
        sidecar.write(tmp_path / "missing" / "a.json", {})
