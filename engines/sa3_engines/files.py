"""Files read where they are there, and files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import IO


def read(path: Path) -> str:
    """What a file of the system says; nothing where there is none, as on another system or for another account."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file beside `path` to write into, which takes its place when the block ends: a reader sees the old file or all
    of the new one, and what fails leaves the old one.
    """
    part = beside(path)
    try:
        with opened(part, os.O_CREAT | os.O_EXCL) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def beside(path: Path) -> Path:
    """A name in the same folder that nothing has, of no more characters than any folder takes."""
    return path.with_name(f".sa3-{secrets.token_hex(6)}.part")


def opened(path: Path, flags: int) -> IO[bytes]:
    """For writing. With the permissions any new file gets: those of a temporary one would outlive the rename."""
    return open(os.open(path, os.O_WRONLY | flags | getattr(os, "O_BINARY", 0), 0o666), "wb")  # noqa: PTH123
