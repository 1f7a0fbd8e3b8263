"""What is in files, by hash, remembered by inode, size and time, so that gigabytes are not read at every start, nor
twice where two names are links to one file.

Forgetting is harmless: what is not remembered is read again. A folder that cannot be written to remembers nothing from
one process to the next.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sa3_engines import files

MOST = 500  # files; the oldest are forgotten first
_UNSAVED: dict[Path, dict[str, list[int | str]]] = {}  # what this process knows where nothing can be written


class Hashes:
    """Saved when the block ends, by whatever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = False
        self._known: dict[str, list[int | str]] = {}
        try:
            held = json.loads(path.read_text("utf-8"))
            self._known = held if isinstance(held, dict) else {}
        except (OSError, ValueError):
            self._known = dict(_UNSAVED.get(path, {}))

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._new:
            return
        kept = dict(list(self._known.items())[-MOST:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(self._path) as file:
                file.write(json.dumps(kept).encode())
        except OSError:
            _UNSAVED[self._path] = kept

    def is_still(self, path: Path, wanted: str, *, again: bool = False) -> bool:
        """Whether a file holds what it should. One that does not is read, whatever is remembered: it may have been put
        right since, with the time it had before.
        """
        held = self.sha256(path, again=again)
        return held == wanted or (not again and self.sha256(path, again=True) == wanted)

    def sha256(self, path: Path, *, again: bool = False) -> str:
        """again: whatever is remembered, the file is read."""
        found = path.stat()
        key, stamp = f"{found.st_dev}:{found.st_ino}", [found.st_size, found.st_mtime_ns]
        held = self._known.get(key)
        if not again and isinstance(held, list) and held[:-1] == stamp:
            return str(held[-1])
        read = sha256(path)
        if found.st_ino:  # some systems number no files
            self._known.pop(key, None)  # what was read last is forgotten last
            self._known[key] = [*stamp, read]
            self._new = True
        return read


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
