"""Writes files whole or not at all."""

import errno
import os
from pathlib import Path

from sa3_engines import files
from sa3_engines.errors import OutputError


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OutputError now rather than after minutes of computing, when `path` cannot be written."""
    target, special = _target(path)
    if special:
        return  # opening a device or pipe can block or have effects, so it is left to the write
    probe = files.beside(target)
    try:
        # Permission bits do not tell about read-only mounts, full quotas or network shares; a file does.
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()
    except OSError as e:
        raise _refused(path, e) from e


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to a file beside `path`, then rename: a reader sees the old file or all of the new one."""
    target, special = _target(path)
    try:
        # A device has no whole, and must not be made where it has gone.
        with files.opened(target, 0) if special else files.replacing(target) as file:
            file.write(data)
    except OSError as e:
        raise _refused(path, e) from e


def _target(path: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The file to replace, or the device or pipe to write into: a rename onto /dev/stdout would replace it."""
    try:
        if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
            return Path(path), True
        # A link keeps pointing where it did: what it points to is replaced.
        target = Path(path).resolve()
        folder, is_folder = target.parent.is_dir(), target.is_dir()
    except (OSError, ValueError, RuntimeError) as e:  # too long, a NUL byte, links in a circle
        raise _refused(path, e) from e
    if is_folder:
        raise OutputError(f"cannot write {os.fspath(path)!r}: it is a folder; add a file name")
    if not folder:
        raise OutputError(f"cannot write {os.fspath(path)!r}: the folder {str(target.parent)!r} does not exist")
    return target, False


def _refused(path: str | os.PathLike[str], error: Exception) -> OutputError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        reason = "the disk is full"
    elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "this account may not write there"
    else:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return OutputError(f"cannot write {os.fspath(path)!r}: {reason}")
