"""Two results against each other: faster, slower, not distinguishable; and what broke."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa3_bench import cases, results, stats
from sa3_bench.results import ERROR, OK
from sa3_engines.errors import InvalidRequest

BROKEN, STILL, MENDED, OTHER, MISSING = "broken", "broken in both", "mended", "not comparable", "only in one"
REGRESSIONS = (stats.SLOWER, BROKEN, OTHER)
EXIT_REGRESSION = 7

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One case in both."""

    name: str
    verdict: str
    detail: str
    ratio: stats.Ratio | None = None


def compare(a: Path, b: Path, *, margin: float | None = None, stage: str = "generate") -> list[Line]:
    """How b stands against a. Files of `table`, or with what `once` printed, a line or more."""
    left, right = rows(a), rows(b)
    if not set(left) & set(right) and len(left) == len(right) == 1:
        # One case each: what is asked is how the two differ.
        right = {next(iter(left)): next(iter(right.values()))}
    lines = [
        _line(key, left.get(key), right.get(key), margin, stage)
        for key in [*left, *(k for k in right if k not in left)]
    ]
    if not any(line.verdict != MISSING for line in lines):
        raise InvalidRequest(f"{a} and {b} have no case in common")
    return lines


def regressed(lines: list[Line]) -> bool:
    return any(line.verdict in REGRESSIONS for line in lines)


def rows(path: Path) -> Rows:
    try:
        text = path.read_text("utf-8")
    except OSError as e:
        raise InvalidRequest(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:  # not UTF-8
        raise InvalidRequest(f"{path} is not text") from e
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and "schema" in whole:
        return dict(results.read(path)["cases"])
    return _printed(path, text)


def _printed(path: Path, text: str) -> Rows:
    """Lines of `once`, or of any program that prints the same: runs of one case are put together."""
    found: Rows = {}
    for line in text.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue  # what else the program said
        if not isinstance(answer, dict) or not isinstance(answer.get("runs"), list):
            continue
        key = cases.from_json(answer["case"]).key if "case" in answer else path.stem
        row = found.setdefault(key, {"status": OK, "result": {**answer, "runs": []}})
        row["result"]["runs"] += answer["runs"]
    if not found:
        raise InvalidRequest(f"{path} holds neither a result of sa3-bench table nor lines of sa3-bench once")
    return found


def _line(
    name: str, a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, margin: float | None, stage: str
) -> Line:
    if a is None or b is None:
        return Line(name=name, verdict=MISSING, detail=f"only in the {'second' if a is None else 'first'}")
    if b["status"] == ERROR:
        return Line(name=name, verdict=BROKEN if a["status"] == OK else STILL, detail=b["reason"])
    if a["status"] == ERROR:
        return Line(name=name, verdict=MENDED, detail=f"was: {a['reason']}")
    if (why := _unlike(a, b)) is not None:
        return Line(name=name, verdict=OTHER, detail=why)
    before, after = results.times(a, stage), results.times(b, stage)
    if not before or not after:
        return Line(name=name, verdict=OTHER, detail=f"no times of {stage}")
    return _judged(name, a, b, before, after, margin)


def _judged(
    name: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    before: list[float],
    after: list[float],
    margin: float | None,
) -> Line:
    begun = [[run.get("started") for run in row["result"]["runs"]] for row in (a, b)]
    turns = all(None not in times for times in begun) and stats.paired(*begun)
    turns = turns and len(before) >= stats.FEWEST_PAIRS
    ratio = stats.ratio(before, after, interleaved=turns)
    fewer = min(len(before), len(after))
    detail = (
        f"{stats.median(before):.4g} s to {stats.median(after):.4g} s, {ratio.value:.3f} times "
        f"({ratio.low:.3f} to {ratio.high:.3f}), {len(before)} and {len(after)} runs"
        f"{', interleaved' if turns else ', not interleaved'}"
    )
    if fewer < stats.FEWEST:
        detail += f": too few, {stats.FEWEST} each are the least"
    return Line(name=name, verdict=stats.verdict(ratio, fewer, margin), detail=detail, ratio=ratio)


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Why two rows are not the same work: other samples, or another seed."""
    for what in ("samples", "seconds"):
        one, other = ({run.get(what) for run in row["result"]["runs"]} - {None} for row in (a, b))
        if one and other and one != other:
            return f"other {what}: {_list(one)} and {_list(other)}"
    kinds = [row.get("case") or row["result"].get("case") for row in (a, b)]
    if None in kinds:
        return None
    for what in ("batch", "steps", "seed", "padding"):
        if kinds[0].get(what) != kinds[1].get(what):
            return f"other {what}: {kinds[0].get(what)} and {kinds[1].get(what)}"
    return None


def _list(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values)))
