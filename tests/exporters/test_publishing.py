"""Who goes first, and what is left when an export is killed: the old bundle, the new one or none, and no litter."""

from __future__ import annotations

import importlib.util
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
from sa3_exporters import build, cli, publishing
from sa3_exporters.watch import Watch


class Noted(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def words(model: Path, out: Path, precision: str = "exact") -> list[str]:
    """An export of a second or two: the model is a bundle, and its graphs need no tracing."""
    return ["--model", str(model), "--target", "onnx", "--precision", precision, "--out", str(out)]


def shorter(model: Path, out: Path) -> list[str]:
    """What the bundle holds, for other durations."""
    return [*words(model, out, "exact,fast"), "--max-seconds", "5"]


def started(model: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sa3_exporters.cli", *shorter(model, out)]
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
        assert bundle.read(out, deep=True).profile.max_seconds > 5
    assert out.exists() == (before == "a bundle")
    assert any(path.suffix == publishing.UNFINISHED for path in tmp_path.iterdir())
    assert cli.main(shorter(bundles["tiny-small"], out)) == 0
    assert bundle.read(out, deep=True).profile.max_seconds == 5
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


def test_what_was_made_of_the_same_weights_is_not_dropped_unless_forced(
    bundles: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "out"
    shutil.copytree(bundles["tiny-small"], folder)
    before = (folder / "manifest.json").read_bytes()
    for more, lost in (((), "fast"), (("--graphs", "decode"), "fast, text, prepare, step, encode")):
        assert cli.main([*words(bundles["tiny-small"], folder), *more]) == 2
        assert f"holds {lost}, which this export would drop; ask for all" in capsys.readouterr().err
        assert cli.main([*words(bundles["tiny-small"], folder), *more, "--dry-run"]) == 2
    capsys.readouterr()
    if importlib.util.find_spec("openvino"):
        other = ["--model", str(bundles["tiny-small"]), "--target", "openvino", "--precision", "exact"]
        assert cli.main([*other, "--out", str(folder)]) == 2
        assert "holds an export for onnx, which this one would drop" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before


def test_fewer_tiers_in_place_leave_no_files_behind(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "model"
    shutil.copytree(bundles["tiny-small"], folder)
    (folder / "notes.int8.txt").write_text("mine")
    monkeypatch.setattr(build, "check_kept", lambda *_: None)  # --force would trace the graphs again
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


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files, from root either")
def test_a_folder_that_takes_no_files_is_no_export_to_wait_for(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--model", "nano", "--target", "onnx", "--out", "/proc/out"]) == OutputError.exit_code
    assert "cannot write /proc/out" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="closes a pipe in a shell")
def test_output_that_nobody_reads():
    command = f"'{sys.executable}' -m sa3_exporters.cli --model nano --target onnx --dry-run | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
