"""Who goes first, and what is left when an export is killed: the old bundle, the new one or none, and no litter."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from sa3_engines import bundle
from sa3_engines.engine import GRAPHS
from sa3_engines.errors import OutputError
from sa3_exporters import cli, publishing
from sa3_exporters.watch import Watch


class Noted(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def words(model: Path, out: Path) -> list[str]:
    """An export of a second or two: the model is a bundle, and its graphs need no tracing."""
    return ["--model", str(model), "--target", "onnx", "--precision", "exact", "--out", str(out)]


def started(model: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sa3_exporters.cli", *words(model, out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_exports_to_one_folder_take_turns(tmp_path: Path):
    out, watch, order = tmp_path / "out", Noted(), list[str]()
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with publishing.only_one(out, watch):
            order.append("second")

    with publishing.only_one(out, Noted()):
        other = threading.Thread(target=second)
        other.start()
        begun.wait(10)
        for _ in range(200):
            if watch.notes:
                break
            threading.Event().wait(0.05)
        order.append("first")
    other.join(30)
    assert order == ["first", "second"]
    assert watch.notes == [f"waiting for another export to {out}"]
    assert not list(tmp_path.iterdir())


def test_two_processes_make_one_bundle(bundles: Mapping[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    both = [started(bundles["tiny-small"], out) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("already current" in text for text in said) == [False, True]
    assert set(bundle.read(out, deep=True).graphs) == set(GRAPHS)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("before", ["nothing", "a bundle"])
def test_a_kill_leaves_what_was_there(bundles: Mapping[str, Path], tmp_path: Path, before: str):
    out = tmp_path / "out"
    if before == "a bundle":
        shutil.copytree(bundles["tiny-small"], out)
    process = started(bundles["tiny-small"], out)
    assert process.stderr is not None
    while "comparing" not in (line := process.stderr.readline()):
        assert line, "it ended too soon"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if before == "a bundle":
        assert set(bundle.read(out, deep=True).tiers) == {"exact", "fast"}
    assert out.exists() == (before == "a bundle")
    assert any(path.suffix == publishing.UNFINISHED for path in tmp_path.iterdir())
    assert cli.main(words(bundles["tiny-small"], out)) == 0
    assert set(bundle.read(out, deep=True).tiers) == {"exact"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path):
    (tmp_path / ".out.0123abcd.old").mkdir()
    (tmp_path / ".out.0123abcd.old" / "manifest.json").write_text("{}")
    (tmp_path / ".out.0123abcd.part").mkdir()
    with publishing.only_one(tmp_path / "out", Watch()):
        pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")] == ["out/manifest.json"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_is_not_of_this_bundle_stays(tmp_path: Path):
    others = [
        tmp_path / name for name in (".out2.0123abcd.part", ".out.notes.part", ".x.out.0123abcd.part", "out.part")
    ]
    for path in others:
        path.mkdir()
    with publishing.only_one(tmp_path / "out", Watch()):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_fewer_tiers_in_place_leave_no_files_behind(bundles: Mapping[str, Path], tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(bundles["tiny-small"], folder)
    (folder / "notes.int8.txt").write_text("mine")
    assert cli.main(words(folder, folder)) == 0
    found = bundle.read(folder, deep=True)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {*found.files, "manifest.json", "notes.int8.txt"}


def test_a_cache_that_cannot_be_written(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The export says so; one that goes elsewhere does without."""
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert cli.main(["--model", "nano", "--target", "onnx"]) == OutputError.exit_code
    where = tmp_path / "a file" / "sa3-runtime" / "bundles" / "nano-onnx"
    assert capsys.readouterr().err == f"sa3-export: cannot write {where}: Not a directory\n"
    assert cli.main(words(bundles["tiny-small"], tmp_path / "out")) == 0
    assert bundle.read(tmp_path / "out", deep=True).tiers
