"""Where the time of one graph goes, by the account of the runtime that ran it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sa3_bench import stages
from sa3_bench.cases import Case
from sa3_bench.observed import Observed
from sa3_engines import models, selection
from sa3_engines.engine import Options, Profiled, Ran
from sa3_engines.errors import InvalidRequest

LEAST = 0.005  # of the time; what takes less is one line


@dataclass(frozen=True)
class Row:
    operation: str
    kernel: str
    seconds: float
    count: int


def measure(case: Case, graph: str) -> dict[str, Any]:
    source = models.locate(case.opened)
    options = Options(device=case.device, precision=case.precision, threads=case.threads)
    engine, _ = selection.open_engine(source, case.backend, options)
    try:
        support = engine.support
        if graph not in support.graphs:
            raise InvalidRequest(f"this bundle has no graph {graph}; it has {', '.join(sorted(support.graphs))}")
        if not isinstance(engine, Profiled):
            raise InvalidRequest(f"backend {support.backend} cannot say where its time goes")
        ran = engine.profile(graph, stages.inputs(Observed(engine), case, graph))
    finally:
        engine.close()
    return {
        "backend": support.backend,
        "device": support.device,
        "tier": support.tier,
        "type": support.precision,
        "graph": graph,
        "seconds": case.seconds,
        "rows": [vars(row) for row in rows(ran)],
    }


def rows(ran: Sequence[Ran]) -> list[Row]:
    """One for each kind of operation and what carried it out, the longest first."""
    kinds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in ran:
        kinds[one.operation, one.kernel].append(one.seconds)
    found = [Row(operation, kernel, sum(times), len(times)) for (operation, kernel), times in kinds.items()]
    return sorted(found, key=lambda row: row.seconds, reverse=True)


def text(found: dict[str, Any]) -> str:
    whole = sum(row["seconds"] for row in found["rows"]) or 1.0
    wide = max([len(row["operation"]) for row in found["rows"]], default=0)
    engine = " ".join(filter(None, (found["backend"], found["tier"], found["type"], "on", found["device"])))
    lines = [f"{found['graph']} at {found['seconds']:g} s, {engine}: {1000 * whole:.1f} ms in its operations"]
    rest = [0.0, 0]
    for row in found["rows"]:
        share = row["seconds"] / whole
        if share < LEAST:
            rest = [rest[0] + row["seconds"], rest[1] + row["count"]]
            continue
        lines.append(_line(share, row["seconds"], row["count"], f"{row['operation']:<{wide}}  {row['kernel']}"))
    if rest[1]:
        lines.append(_line(rest[0] / whole, rest[0], int(rest[1]), "others"))
    return "\n".join(lines)


def _line(share: float, seconds: float, count: int, what: str) -> str:
    return f"{100 * share:5.1f} % {1000 * seconds:9.2f} ms {count:6d} x  {what}"
