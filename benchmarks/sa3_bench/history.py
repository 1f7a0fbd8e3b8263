"""Results over the commits that recorded them: each version that git holds, and the one on disk."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sa3_bench import page, results, stats, svg
from sa3_engines.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class Version:
    """One result file as a commit recorded it; commit None: as it lies there now."""

    machine: str
    commit: str | None
    at: float
    data: Mapping[str, Any]


def versions(folder: Path) -> list[Version]:
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder of results")
    found = [one for path in sorted(folder.glob("*.json")) for one in _versions(path)]
    if not found:
        raise InvalidRequest(f"{folder} holds no results; sa3-bench table writes some")
    return found


def _versions(path: Path) -> Iterator[Version]:
    last: str | None = None
    for line in (_git(path, "log", "--reverse", "--format=%H %ct", "--", path.name) or "").splitlines():
        commit, at = line.split()
        text = _git(path, "show", f"{commit}:./{path.name}")
        data = _parsed(text)
        if data is not None:
            last = text
            yield Version(machine=data["name"], commit=commit, at=float(at), data=data)
    text = path.read_text("utf-8")
    data = _parsed(text)
    if data is not None and (last is None or text.strip() != last.strip()):
        yield Version(machine=data["name"], commit=None, at=path.stat().st_mtime, data=data)


def _git(path: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(path.parent), *command], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _parsed(text: str | None) -> dict[str, Any] | None:
    """None for what is no result, as other JSON in the folder."""
    try:
        data = json.loads(text or "")
    except ValueError:
        return None
    return data if isinstance(data, dict) and data.get("schema") == results.SCHEMA and "cases" in data else None


@dataclass(frozen=True, kw_only=True)
class Point:
    at: float
    commit: str
    seconds: float


def courses(found: list[Version]) -> dict[tuple[str, str], list[Point]]:
    """(machine, case) to its medians, in the order of time."""
    courses: dict[tuple[str, str], list[Point]] = {}
    for version in sorted(found, key=lambda v: v.at):
        for key, row in version.data["cases"].items():
            times = results.times(row)
            if times:
                code = version.data["code"]["commit"] or version.data["code"]["digest"]
                point = Point(
                    at=version.at,
                    commit=(version.commit or f"{code[:8]}, not committed")[:24],
                    seconds=stats.median(times),
                )
                courses.setdefault((version.machine, key), []).append(point)
    return courses


def text(found: list[Version]) -> str:
    lines: list[str] = []
    for (machine, key), points in courses(found).items():
        lines.append(f"{machine}: {key}")
        first = points[0].seconds
        lines += [
            f"  {p.commit[:24]:24}  {p.seconds:10.4g} s  {first / p.seconds:6.2f} times the first's speed"
            for p in points
        ]
    return "\n".join(lines)


def html(found: list[Version]) -> str:
    parts = ["<h1>Results over commits</h1>"]
    found_courses = courses(found)
    for machine in dict.fromkeys(machine for machine, _ in found_courses):
        series = [
            svg.Series(
                name=key,
                points=[(number + 1, p.seconds) for number, p in enumerate(points)],
                notes=[f"{key}: {p.seconds:.4g} s at {p.commit}" for p in points],
            )
            for (where, key), points in found_courses.items()
            if where == machine
        ]
        drawn = svg.lines(series, "recorded result, oldest first", "seconds", logarithmic=(False, True))
        parts.append(f"<h2>{escape(machine)}</h2>\n{drawn}")
    return page.page("Stable Audio 3: results over commits", parts)
