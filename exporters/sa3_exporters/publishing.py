"""How a bundle takes its place: by one process at a time, whole or not at all.

Everything happens in a folder beside the target, which is renamed when it is complete: nobody ever sees half a bundle.
Into a checkpoint's own folder only graphs and a manifest go. What is in a folder and was not exported into it stays.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path

import filelock

from sa3_engines import bundle, files, models
from sa3_engines.bundle import Bundle
from sa3_engines.engine import GRAPHS
from sa3_engines.errors import BundleError, CheckpointError, ModelNotFound, OutputError
from sa3_engines.models import MANIFEST
from sa3_exporters.watch import Watch

UNFINISHED, REPLACED = ".part", ".old"
CHANGING = ".sa3-export.json"  # in a checkpoint's folder, while graphs of its own are added, changed or removed: which
GRAPH_FILE = re.compile(rf"({'|'.join(GRAPHS)})(\.\w+)?\.(onnx|safetensors|xml|bin)")


@contextlib.contextmanager
def only_one(out: Path, watch: Watch) -> Generator[None]:
    """Holds the folder for this process. Another's export is waited for: what it makes may be what is wanted. What a
    killed one left lying beside the folder is cleared away."""
    path = out.parent / f".{out.name}.lock"
    with _writing(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # a folder that takes no files would look like a lock that somebody holds
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            watch.note(f"waiting for another export to {out}")
            lock.acquire()
    try:
        with _writing(out):
            _clear(out)
        yield
    finally:
        # While it is held: afterwards it may be another's. Who waits for a lock without a file takes a new one.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _clear(out: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}({re.escape(UNFINISHED)}|{re.escape(REPLACED)})")
    for path in [path for path in out.parent.iterdir() if pattern.fullmatch(path.name)]:
        if path.suffix == REPLACED and not out.exists():
            path.rename(out)  # it was killed between taking the old bundle away and putting the new one there
        elif path.suffix == REPLACED:
            _retire(path, out)
        else:
            shutil.rmtree(path, ignore_errors=True)
    _settle(out)


@contextlib.contextmanager
def staging(out: Path) -> Generator[Path]:
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}{UNFINISHED}"
    try:
        with _writing(out):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _writing(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as e:
        reason = "the disk is full" if e.errno == errno.ENOSPC else e.strerror or str(e)
        elsewhere = isinstance(e.filename, str) and not Path(e.filename).is_relative_to(out.parent)
        raise OutputError(f"cannot write {out}: {e.filename + ': ' if elsewhere else ''}{reason}") from e


def publish(folder: Path, out: Path, found: Bundle, *, in_place: bool) -> None:
    """folder: the staged one, complete with its manifest."""
    if in_place:
        _add(folder, out, found)
        return
    replaced = folder.with_suffix(REPLACED)
    if out.exists():
        out.rename(replaced)
    try:
        folder.rename(out)
    except BaseException:
        if replaced.exists():
            replaced.rename(out)
        raise
    if replaced.exists():
        _retire(replaced, out)


def _retire(replaced: Path, out: Path) -> None:
    """Removes what was replaced. What somebody else put there moves over."""
    own = {MANIFEST, *_listed(replaced)}
    for path in [path for path in replaced.rglob("*") if path.is_symlink() or not path.is_dir()]:
        name = path.relative_to(replaced)
        if name.as_posix() not in own and not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(out / name)
    shutil.rmtree(replaced, ignore_errors=True)


def _listed(folder: Path) -> list[str]:
    """The files of a bundle of whatever version; none where its manifest cannot be read."""
    try:
        return [str(name) for name in models.read_json(folder / MANIFEST)["files"]]
    except (CheckpointError, ModelNotFound, KeyError, TypeError):
        return []


def _add(folder: Path, out: Path, found: Bundle) -> None:
    own = _own(found) | _changing(out)
    with contextlib.suppress(BundleError):
        own |= _own(bundle.load(out))
    (folder / CHANGING).write_text(json.dumps(sorted(own)), "utf-8")
    (folder / CHANGING).replace(out / CHANGING)
    # The manifest goes first and comes last: between the two the folder is a checkpoint and no bundle.
    (out / MANIFEST).unlink(missing_ok=True)
    for name in _own(found):
        (folder / name).replace(out / name)
    (folder / MANIFEST).replace(out / MANIFEST)
    _settle(out)


def _settle(out: Path) -> None:
    """Removes the graphs that a change in place leaves over, also one that was killed before it came to that."""
    kept = _listed(out)
    if not kept and (out / MANIFEST).exists():  # which nobody can read: there is no telling
        return
    for name in _changing(out) - set(kept):
        (out / name).unlink(missing_ok=True)
    (out / CHANGING).unlink(missing_ok=True)


def _changing(out: Path) -> set[str]:
    """Whatever the file says, nothing that is elsewhere or may be the checkpoint's."""
    names = re.findall(r'"([^"]*)"', files.read(out / CHANGING))
    return {name for name in names if GRAPH_FILE.fullmatch(name)}


def _own(found: Bundle) -> set[str]:
    """The files that an export made, as against those of the checkpoint."""
    return {file for tier in found.tiers.values() for graph in tier.graphs.values() for file in graph.files}
