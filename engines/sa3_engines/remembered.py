"""Which files were found unchanged before, by path, size and time, so that gigabytes are not read at every start.

Forgetting is harmless: what is not remembered is checked again. A folder that cannot be written to remembers nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

MOST = 500  # files; the oldest are forgotten first


class Checks:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = False
        self._known: dict[str, list[int | str]] = {}
        with contextlib.suppress(OSError, ValueError):
            held = json.loads(path.read_text("utf-8"))
            if isinstance(held, dict):
                self._known = held

    def knows(self, path: Path, sha256: str) -> bool:
        return self._known.get(str(path.resolve())) == self._stamp(path, sha256)

    def add(self, path: Path, sha256: str) -> None:
        key = str(path.resolve())
        self._known.pop(key, None)
        self._known[key] = self._stamp(path, sha256)
        self._new = True

    def save(self) -> None:
        if not self._new:
            return
        kept = dict(list(self._known.items())[-MOST:])
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(kept), "utf-8")
            part.replace(self._path)

    @staticmethod
    def _stamp(path: Path, sha256: str) -> list[int | str]:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ino, sha256]
