"""Which layers stay in fp32, per tier: regular expressions searched for in the weights' names in the checkpoint.

The built-in table keeps the path from noise level and duration to every layer's modulation, which is small and has a
hand in everything. A table of one's own, as `sensitivity` measures it on real weights, replaces the tiers it names.
`targets` in a table holds what one target needs for itself: {"targets": {TARGET: {TIER: {"exact": [...]}}}}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from sa3_engines.errors import InvalidRequest
from sa3_engines.tiers import EXACT, TIERS

TABLE = Path(__file__).with_name("islands.json")


def patterns(target: str, tier: str, file: Path | None = None) -> tuple[str, ...]:
    if tier == EXACT:
        return ()  # all of it is
    for path in (TABLE,) if file is None else (file, TABLE):
        found = _table(path)
        for place in (found.get("targets", {}).get(target, {}), found.get("tiers", {})):
            if tier in place:
                return tuple(place[tier]["exact"])
    return ()


@cache
def _table(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise InvalidRequest(f"table of islands {path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise InvalidRequest(f"table of islands {path} is not JSON: {e}") from e
    _check(raw, path)
    return cast("Mapping[str, Any]", raw)


def _check(raw: Any, path: Path) -> None:
    try:
        for tiers in (raw.get("tiers", {}), *raw.get("targets", {}).values()):
            for name, tier in tiers.items():
                if name not in TIERS:
                    raise InvalidRequest(f"table of islands {path}: no tier {name!r}; choose from {', '.join(TIERS)}")
                for pattern in tier["exact"]:
                    re.compile(pattern)
    except (AttributeError, KeyError, TypeError, re.error) as e:
        raise InvalidRequest(
            f'table of islands {path}: tiers map to {{"exact": [regular expressions]}}, as sensitivity writes them: {e}'
        ) from e
