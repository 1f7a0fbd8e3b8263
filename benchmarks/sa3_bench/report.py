"""The report of one machine as one HTML file: the table, plots, and the clips to hear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sa3_bench import cases, page, published, results, session, stats, svg, table
from sa3_bench.results import OK

Data = Mapping[str, Any]
Row = Mapping[str, Any]


def html(data: Data, work: Path) -> str:
    head, _, rest = table.markdown(data).partition("\n## ")
    plots = [
        ("Latency against length", _latency(data)),
        ("Where the time goes", _stages(data)),
        ("Peak memory of the process", _memory(data)),
        ("Quality against speed", _quality(data)),
        ("The clips", _clips(data, work)),
    ]
    parts = [page.from_markdown(head)]
    parts += [f"<h2>{escape(title)}</h2>\n{body}" for title, body in plots]
    parts.append(page.from_markdown(f"## {rest}"))
    return page.page(f"Stable Audio 3 on {data['name']}", parts)


def _good(data: Data) -> list[Row]:
    return [row for row in results.rows(data) if row["status"] == OK]


def _latency(data: Data) -> str:
    """One plot per model: this machine's engines, its limit, and the quoted columns dashed."""
    parts: list[str] = []
    for model in dict.fromkeys(row["case"]["model"] for row in _good(data)):
        rows = [row for row in _good(data) if row["case"]["model"] == model and row["case"]["batch"] == 1]
        series = [_series(data, rows, engine) for engine in table.columns(data)]
        for precision in dict.fromkeys(row["result"]["support"]["precision"] for row in rows):
            series.append(_roofline(data, rows, precision))
        for index, column in enumerate(published.COLUMNS):
            quoted = [one for one in published.TABLE if one.model == published.NAMES.get(model)]
            points = [(one.seconds, time) for one in quoted if (time := one.times[index]) is not None]
            series.append(svg.Series(name=f"quoted: {column}", points=points, dashed=True))
        drawn = svg.lines([one for one in series if one.points], "seconds of sound", "seconds to make it")
        parts.append(f"<figure>{drawn}<figcaption>{escape(model)}, one clip at a time</figcaption></figure>")
    return "".join(parts) or "<p>Nothing was measured.</p>"


def _series(data: Data, rows: list[Row], engine: str) -> svg.Series:
    found = sorted(
        (row["case"]["seconds"], stats.median(results.times(row))) for row in rows if table.engine(data, row) == engine
    )
    return svg.Series(name=f"here: {engine}", points=found)


def _roofline(data: Data, rows: list[Row], precision: str) -> svg.Series:
    found = {
        row["case"]["seconds"]: table.limit(data, row)
        for row in rows
        if row["result"]["support"]["precision"] == precision
    }
    points = [(x, y) for x, y in sorted(found.items()) if math.isfinite(y)]
    return svg.Series(name=f"here: the machine's limit in {precision}", points=points, dashed=True)


def _stages(data: Data) -> str:
    rows: list[tuple[str, Mapping[str, float]]] = []
    for row in _good(data):
        runs = row["result"]["runs"]
        parts = {name: stats.median([run[name] for run in runs]) for name in ("t5", "loop", "decode", "finish")}
        names = {"t5": "text", "loop": "sampling", "decode": "decode", "finish": "finish"}
        rest = max(stats.median(results.times(row)) - sum(parts.values()), 0.0)
        rows.append((table.label(data, row), {names[k]: v for k, v in parts.items()} | {"the rest": rest}))
    return svg.bars(rows, "s")


def _memory(data: Data) -> str:
    rows: list[tuple[str, Mapping[str, float]]] = []
    for row in _good(data):
        result = row["result"]
        peak = max((run["peak_rss_mb"] or 0.0) for run in result["runs"]) / 1000
        loaded = min((result["memory"]["loaded_mb"] or 0.0) / 1000, peak)
        parts = {"loaded": loaded, "more at its peak": peak - loaded}
        device = max((run["device_peak_mb"] or 0.0) for run in result["runs"]) / 1000
        rows.append((table.label(data, row), parts | ({"device": device} if device else {})))
    return svg.bars(rows, "GB")


def _quality(data: Data) -> str:
    """Each tier's worst velocity against how many times real time it runs, at the shortest length."""
    series: list[svg.Series] = []
    taken: set[tuple[str, str]] = set()
    for row in _good(data):
        case = cases.from_json(row["case"])
        entry = data["quality"].get(f"{case.model} {case.weights}", {}).get(case.engine)
        if entry is None or entry.get("velocity_db") is None or (case.model, case.engine) in taken:
            continue
        speed = case.seconds / stats.median(results.times(row))
        exact = " (the reference)" if entry["reference"] == case.engine else ""
        taken.add((case.model, case.engine))
        name = f"{case.model}, {table.engine(data, row)}, {case.seconds:g} s{exact}"
        series.append(svg.Series(name=name, points=[(speed, entry["velocity_db"])]))
    drawn = svg.scatter(series, "times real time", "velocity against fp32, dB")
    return f"<figure>{drawn}<figcaption>200 dB stands for no difference at all.</figcaption></figure>"


def _clips(data: Data, work: Path) -> str:
    parts: list[str] = []
    for row in _good(data):
        case = cases.from_json(row["case"])
        uri = session.clip(work, case, row["result"]["output"]["rate"]) if case.batch == 1 else None
        if uri is None:
            continue
        what = "random weights: noise is what is expected" if case.weights == "random" else cases.PROMPT
        caption = f"{table.label(data, row)}: {what}; its first {session.CLIP_SECONDS:g} s at most, as MP3"
        player = f'<audio controls preload="none" src="{uri}"></audio>'
        parts.append(f"<figure>{player}<figcaption>{escape(caption)}</figcaption></figure>")
    return "".join(parts) or "<p>No clip is kept of these cases.</p>"
