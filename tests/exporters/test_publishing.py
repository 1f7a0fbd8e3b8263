"""Who goes first, and what is left when an export is killed: the old bundle, the new one or none, and no litter."""

from __future__ import annotations

import errno
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process there and then")
def test_what_ends_a_service_clears_away_what_is_half_made(bundles: Mapping[str, Path], tmp_path: Path):
    process = started(bundles["tiny-small"], tmp_path / "out")
    assert process.stderr is not None
    while "comparing" not in (line := process.stderr.readline()):
        assert line, "it ended too soon"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert said.endswith("sa3-export: interrupted; nothing was published\n")
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


INTERRUPTED_RENAMES = """
import signal, sys
from pathlib import Path
from sa3_exporters import cli
rename = Path.rename
def interrupted(self, target):
    moved = rename(self, target)
    signal.raise_signal(signal.SIGINT)
    return moved
Path.rename = interrupted
sys.exit(cli.main(sys.argv[1:]))
"""


def test_ctrl_c_while_a_bundle_takes_its_place_waits_until_it_has(bundles: Mapping[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-small"], out)
    command = [sys.executable, "-c", INTERRUPTED_RENAMES, *shorter(bundles["tiny-small"], out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith(f"sa3-export: interrupted; {out} is published and complete\n")
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


class Killed(BaseException):
    """Stands for SIGKILL: nothing here catches it, and nothing is undone."""


def killed_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The process ends with one of the changes that it makes to folders."""
    left = [count]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **more: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return real(*args, **more)

        return change

    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def staged(source: Path, folder: Path, names: Sequence[str]) -> bundle.Bundle:
    """What an export of some tiers has ready before it is published."""
    shutil.copytree(source, folder)
    found = bundle.load(folder)
    found = replace(found, tiers={name: found.tiers[name] for name in names})
    own = publishing._own(found)
    found = replace(
        found, files={name: file for name, file in found.files.items() if not GRAPH.search(name) or name in own}
    )
    bundle.write(folder, found)
    for path in folder.iterdir():
        if GRAPH.search(path.name) and path.name not in own:
            path.unlink()
    return found


GRAPH = re.compile(r"\.onnx$|\.int8\.")


@pytest.mark.parametrize(("before", "after"), [(("exact", "fast"), ("exact",)), (("exact",), ("exact", "fast"))])
def test_what_a_kill_in_place_leaves_over_goes_with_the_next_export(
    bundles: Mapping[str, Path], tmp_path: Path, before: Sequence[str], after: Sequence[str]
):
    """Wherever it strikes; and what is not ours stays, whatever it is called."""
    mine = {"notes.txt": "mine", "step.int8.txt": "mine", "other.onnx": "mine"}
    for count in range(40):
        folder = tmp_path / f"{count}"
        staged(bundles["tiny-small"], folder / "model", before)
        for name, text in mine.items():
            (folder / "model" / name).write_text(text)
        made = staged(bundles["tiny-small"], folder / ".model.0123abcd.part", after)
        with pytest.MonkeyPatch.context() as patch:
            killed_after(patch, count)
            try:
                publishing.publish(folder / ".model.0123abcd.part", folder / "model", made, in_place=True)
                done = True
            except Killed:
                done = False
        with publishing.only_one(folder / "model", Watch()):
            pass
        there = {path.relative_to(folder / "model").as_posix() for path in (folder / "model").rglob("*.*")}
        if (folder / "model" / "manifest.json").exists():
            found = bundle.read(folder / "model")
            assert tuple(found.tiers) in (before, after)
            assert there == {*found.files, "manifest.json", *mine}, count
        else:
            assert {name for name in there if GRAPH.search(name)} == {"step.int8.txt", "other.onnx"}, count
        if done:
            assert count > 5 and tuple(bundle.load(folder / "model").tiers) == after
            break
        shutil.rmtree(folder)
    else:
        raise AssertionError("it never came to an end")


def test_nobody_elses_files_go_by_what_a_folder_says_of_itself(tmp_path: Path):
    folder = tmp_path / "model"
    for path in (folder / "model.safetensors", folder / "step.onnx", tmp_path / "step.onnx"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (folder / publishing.CHANGING).write_text('["../step.onnx", "model.safetensors", "step.onnx", 3]')
    with publishing.only_one(folder, Watch()):
        pass
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "model/model.safetensors",
        "step.onnx",
    ]


def test_what_somebody_put_into_a_bundle_is_there_after_the_next_export(bundles: Mapping[str, Path], tmp_path: Path):
    for count in range(20):
        folder = tmp_path / f"{count}"
        staged(bundles["tiny-small"], folder / "out", ("exact", "fast"))
        (folder / "out" / "clips").mkdir()
        mine = {"notes.txt", "clips/a.wav", "t5gemma-b-b-ul2/mine.txt"}
        for name in mine:
            (folder / "out" / name).write_text("mine")
        made = staged(bundles["tiny-small"], folder / ".out.0123abcd.part", ("exact",))
        with pytest.MonkeyPatch.context() as patch:
            killed_after(patch, count)
            try:
                publishing.publish(folder / ".out.0123abcd.part", folder / "out", made, in_place=False)
                done = True
            except Killed:
                done = False
        with publishing.only_one(folder / "out", Watch()):
            pass
        found = bundle.read(folder / "out")
        there = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
        assert there == {*found.files, "manifest.json", *mine}, count
        assert list(folder.iterdir()) == [folder / "out"]
        if done:
            assert count > 3
            break
        shutil.rmtree(folder)
    else:
        raise AssertionError("it never came to an end")


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


def test_what_could_not_be_read_is_named(tmp_path: Path):
    weights = tmp_path / "checkpoint" / "model.safetensors"
    (tmp_path / "here").mkdir()
    with (
        pytest.raises(OutputError, match=rf"^cannot write .*/here/out: {weights}: Input/output error$"),
        publishing.staging(tmp_path / "here" / "out"),
    ):
        raise OSError(errno.EIO, "Input/output error", str(weights))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files, from root either")
def test_a_folder_that_takes_no_files_is_no_export_to_wait_for(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--model", "nano", "--target", "onnx", "--out", "/proc/out"]) == OutputError.exit_code
    assert "cannot write /proc/out" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="closes a pipe in a shell")
def test_output_that_nobody_reads():
    command = f"'{sys.executable}' -m sa3_exporters.cli --model nano --target onnx --dry-run | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
