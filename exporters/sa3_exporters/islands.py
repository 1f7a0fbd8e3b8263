"""Which layers stay in fp32, per tier, and which take four bits: patterns searched for in the weights' names in the
checkpoint.

The built-in table keeps the path from noise level and duration to every layer's modulation, and what the prompt, the
noise and the velocity pass on their way in and out: all of it small, with a hand in everything. A table of one's own,
as `sensitivity` measures it on real weights, replaces the tiers it names.
`targets` in a table holds what one target needs for itself: {"targets": {TARGET: {TIER: {"exact": [...]}}}}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from sa3_engines import choosing
from sa3_engines.errors import InvalidRequest
from sa3_engines.models import Source
from sa3_engines.tiers import EXACT, TIERS
from sa3_exporters import targets
from sa3_exporters.targets import Tier

TABLE = Path(__file__).with_name("islands.json")
# Four bits are for the transformer's feed-forward alone, two thirds of its weights: everywhere they leave no margin to
# the floor, and in the autoencoder, which is small and whose answer is heard as it is, they stay below it. A small
# matrix has too few numbers for errors to even out, and nothing to save: at four bits nano's steps fall to 0.91.
FOUR_BITS = re.compile(r"^model\.model\..*\.ff\.")
LARGE = 1 << 20  # weights of a matrix


def patterns(target: str, tier: str, file: Path | None = None) -> tuple[str, ...]:
    if tier == EXACT:
        return ()  # all of it is
    for path in (TABLE,) if file is None else (file, TABLE):
        found = _table(path)
        for place in (found.get("targets", {}).get(target, {}), found.get("tiers", {})):
            if tier in place:
                return tuple(place[tier]["exact"])
    return ()


def check(file: Path) -> None:
    """Refuses what is no table."""
    _table(file)


def is_exact(tier: Tier, key: str) -> bool:
    return tier.name == EXACT or any(re.search(pattern, key) for pattern in tier.exact)


def idle(file: Path | None, wanted: Sequence[Tier], keys: Collection[str]) -> str | None:
    """What to say of a user's table whose patterns find nothing among a checkpoint's weights, as a slip does."""
    patterns = dict.fromkeys(pattern for tier in wanted for pattern in tier.exact) if file is not None else ()
    found = [pattern for pattern in patterns if not any(re.search(pattern, key) for key in keys)]
    return f"table of islands {file}: no weight is called like {', '.join(found)}" if found else None


def number_type(tier: Tier, key: str, shape: tuple[int, int]) -> str:
    """Of a linear layer's weight in a tier."""
    if is_exact(tier, key):
        return "fp32"
    if tier.type == "int4" and not (FOUR_BITS.search(key) and shape[0] * shape[1] >= LARGE):
        return "int8"
    return tier.type


def doubt(file: Path | None, source: Source, target: str) -> str | None:
    """What to say where a table was derived from other weights than it is used for."""
    from sa3_exporters import placing  # imports torch, and a table is refused before that

    found = {} if file is None else _table(file)
    if "digest" not in found or found["digest"] == placing.digest(source):
        return None
    tier = next(iter(found.get("targets", {}).get(target, {})), "fast")
    return (
        f"table of islands {file} was derived from other weights (those of {found.get('model', 'another model')}); "
        f"python -m sa3_exporters.sensitivity --model {choosing.as_typed(source)} --target {target} --tier {tier} "
        f"--out {file} derives one from these"
    )


@cache
def _table(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise InvalidRequest(f"table of islands {path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise InvalidRequest(f"table of islands {path} is not JSON: {e}") from e
    _check(raw, path)
    return cast("Mapping[str, Any]", raw)


def _check(raw: Any, path: Path) -> None:
    try:
        if not {"tiers", "targets"} & set(raw):
            raise KeyError("tiers")
        for name in raw.get("targets", {}):
            if name not in targets.NAMES:
                known = ", ".join(targets.NAMES)
                raise InvalidRequest(f"table of islands {path}: no target {name!r}; choose from {known}")
        for tiers in (raw.get("tiers", {}), *raw.get("targets", {}).values()):
            for name, tier in tiers.items():
                if name not in TIERS:
                    raise InvalidRequest(f"table of islands {path}: no tier {name!r}; choose from {', '.join(TIERS)}")
                if not isinstance(tier["exact"], list):
                    raise TypeError(f"{name} has {json.dumps(tier['exact'])}, which is no list")
                for pattern in tier["exact"]:
                    re.compile(pattern)
    except (AttributeError, KeyError, TypeError, re.error) as e:
        raise InvalidRequest(
            f'table of islands {path}: tiers map to {{"exact": [regular expressions]}}, as sensitivity writes them: {e}'
        ) from e
