"""A machine's results in one JSON file, saved after every case, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa3_bench.cases import Case
from sa3_engines.errors import InvalidRequest
from sa3_runtime.files import write_atomic

SCHEMA = 1
OK, ERROR = "ok", "error"


class Results:
    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data = path, data

    @classmethod
    def begin(cls, path: Path, *, resume: bool, made_on: Mapping[str, Any]) -> Results:
        """made_on: name, machine, versions, code. Resuming keeps what was measured with the same code and versions."""
        data: dict[str, Any] = {"schema": SCHEMA, "sessions": [], "cases": {}, "quality": {}, "peers": {}, "limits": {}}
        if resume and path.is_file():
            data |= read(path)
        return cls(path, data | dict(made_on))

    def fresh(self, case: Case) -> bool:
        """Whether this case has a good result of today's code and versions."""
        row = self.data["cases"].get(case.key)
        return row is not None and row["status"] == OK and row["made_with"] == self._made_with()

    def put(self, case: Case, row: Mapping[str, Any]) -> None:
        self.data["cases"][case.key] = {"case": case.as_json(), **row, "made_with": self._made_with()}
        self.save()

    def save(self) -> None:
        write_atomic(self.path, (json.dumps(self.data, indent=1) + "\n").encode())

    def _made_with(self) -> dict[str, Any]:
        code = self.data["code"]
        return {"digest": code["digest"], "commit": code["commit"], "versions": self.data["versions"]}


def read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise InvalidRequest(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise InvalidRequest(f"{path} is not JSON") from e
    known = isinstance(data, dict) and data.get("schema") == SCHEMA
    if not known or not isinstance(data.get("cases"), dict) or not isinstance(data.get("name"), str):
        raise InvalidRequest(f"{path} is not a result of sa3-bench table, or of another version; run it anew")
    return data


def rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(data["cases"].values())


def times(row: Mapping[str, Any], stage: str = "generate") -> list[float]:
    """Of the runs of a row; none where it is an error."""
    if row["status"] != OK:
        return []
    return [run[stage] for run in row["result"]["runs"] if run.get(stage) is not None]
