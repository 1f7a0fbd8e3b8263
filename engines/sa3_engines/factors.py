"""The leading singular vectors of weights, kept in the user's cache folder: an -xs adapter needs those of every weight,
which for a full-size model are most of a minute's work.

By the weight's own numbers, so that they serve every file, bundle and engine that holds it. Forgetting is harmless:
what is not there, damaged or for fewer directions is computed again, and where nothing can be written nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from sa3_engines import files, models, singular

Array = np.ndarray
LEAST = 1 << 18  # numbers of a weight: what is smaller is computed sooner than it is found
MOST = 512 << 20  # bytes: about ten full-size models at a usual rank
_FOLDER = "singular"


def leading(matrix: Array, count: int) -> tuple[Array, Array]:
    """As `singular.leading`."""
    if matrix.size < LEAST:
        return singular.leading(matrix, count)
    path = models.cache_folder() / _FOLDER / f"{_digest(matrix)}.npz"
    found = _read(path, matrix, count)
    if found is None:
        found = singular.leading(matrix, count)
        _write(path, found)
    return found


def _digest(matrix: Array) -> str:
    """Of the shape and the numbers, and of what computes."""
    made_by = Path(singular.__file__).read_bytes() + str(matrix.shape).encode()
    hashed = hashlib.blake2b(made_by, digest_size=16)
    hashed.update(np.ascontiguousarray(matrix).reshape(-1).data)
    return hashed.hexdigest()


def _read(path: Path, matrix: Array, count: int) -> tuple[Array, Array] | None:
    """Those of the first `count` directions, of the more that may be there."""
    try:
        with path.open("rb") as file, np.load(file) as held:
            u, vt = held["u"], held["vt"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged
        return None
    if len(vt) < count or u.shape != (len(matrix), len(vt)) or vt.shape != (len(vt), matrix.shape[1]):
        return None
    return u[:, :count], vt[:count]


def _write(path: Path, found: tuple[Array, Array]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            np.savez(file, u=found[0], vt=found[1])
        _make_room(path.parent)


def _make_room(folder: Path) -> None:
    """What was written first goes first."""
    total = 0
    for path in sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime_ns, reverse=True):
        total += path.stat().st_size
        if total > MOST:
            path.unlink(missing_ok=True)
