"""The published latency table with this machine's columns beside it, as Markdown. What is quoted says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sa3_bench import cases, limits, machine, published, results, stats
from sa3_bench.results import OK

Row = Mapping[str, Any]
Data = Mapping[str, Any]


def columns(data: Data) -> list[str]:
    """This machine's engines."""
    return list(dict.fromkeys(engine(data, row) for row in results.rows(data)))


def engine(data: Data, row: Row) -> str:
    """An engine as it was asked for, with the precision it chose when none was."""
    return shown(data, cases.from_json(row["case"]).engine)


def shown(data: Data, asked: str) -> str:
    for row in results.rows(data):
        case = cases.from_json(row["case"])
        if row["status"] == OK and case.engine == asked:
            return replace(case, precision=row["result"]["support"]["precision"]).engine
    return asked


def lines(data: Data) -> list[tuple[str, float, int, str]]:
    """(model, seconds, batch, weights) of every line: what was measured, and the published lengths of those models."""
    found = [
        (r["case"]["model"], r["case"]["seconds"], r["case"]["batch"], r["case"]["weights"]) for r in results.rows(data)
    ]
    weights = {model: kind for model, _, _, kind in found}
    for model in weights:
        found += [
            (model, one.seconds, 1, weights[model])
            for one in published.TABLE
            if one.model == published.NAMES.get(model)
        ]
    order = list(weights)
    return sorted(set(found), key=lambda line: (order.index(line[0]), line[2], line[1]))


def row_of(data: Data, line: tuple[str, float, int, str], name: str) -> Row | None:
    model, seconds, batch, weights = line
    for row in results.rows(data):
        case = row["case"]
        same = (case["model"], case["seconds"], case["batch"], case["weights"]) == (model, seconds, batch, weights)
        if same and engine(data, row) == name:
            return row
    return None


def markdown(data: Data) -> str:
    parts = [
        f"# Latency: {data['name']}",
        _about(data),
        _main(data),
        "Columns marked *here* were measured on this machine; those marked *quoted* are others' numbers on other "
        f"machines, from the {published.SOURCE}. {' '.join(published.NOTES)}",
        _errors(data),
        "## Stages, and the share of the machine's limit they reach\n\n" + _stages(data),
        "## Memory, loading, energy\n\n" + _costs(data),
        "## The machine's limits\n\n" + limits_text(data),
        "## Quality of the tiers\n\n" + _quality(data),
        "## Other implementations, measured here\n\n" + _peers(data),
        "## Other published numbers (quoted)\n\n" + _others(),
        "## What is timed\n\n" + cases.TIMED.format(padding=cases.PADDING),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    marks = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], marks, *cells[1:]))


def seconds(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _main(data: Data) -> str:
    here = columns(data)
    head = ["model", "length", *(f"here: {one}" for one in here), "here: machine's limit", "here: peak memory"]
    head += [*(f"quoted: {one}" for one in published.COLUMNS), "quoted: peak on H200"]
    rows: list[list[str]] = []
    for line in lines(data):
        model, length, batch, weights = line
        found = [row_of(data, line, one) for one in here]
        quoted = published.row(model, length) if batch == 1 else None
        name = f"{model}{' (random weights)' if weights == 'random' else ''}"
        rows.append(
            [
                name,
                f"{length:g} s" + (f" x {batch}" if batch > 1 else ""),
                *(cell(row) for row in found),
                seconds(min((limit(data, row) for row in found if row), default=math.nan, key=_last_nan)),
                _peak(found),
                *(seconds(time) for time in (quoted.times if quoted else [None] * len(published.COLUMNS))),
                f"{quoted.peak_gb:g} GB" if quoted else "-",
            ]
        )
    return grid(head, rows)


def _last_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def cell(row: Row | None) -> str:
    """The median and where the runs lie; or that it is an error, never a time."""
    if row is None:
        return "not run"
    if row["status"] != OK:
        return "**error**"
    times = results.times(row)
    low, high = min(times), max(times)
    mark = " (!)" if row.get("troubles") or row.get("notes") else ""
    return f"{seconds(stats.median(times))} ({seconds(low)} - {seconds(high)}, {len(times)} runs){mark}"


def _peak(found: Sequence[Row | None]) -> str:
    peaks = [
        max(run["peak_rss_mb"] or 0 for run in row["result"]["runs"]) for row in found if row and row["status"] == OK
    ]
    peaks = [peak for peak in peaks if peak]
    return (
        f"{min(peaks) / 1000:.2f} GB" + (f" - {max(peaks) / 1000:.2f} GB" if len(peaks) > 1 else "") if peaks else "-"
    )


def limit(data: Data, row: Row) -> float:
    """The least time this machine's arithmetic and memory allow for making a row's sound; nan where not known."""
    if row["status"] != OK:
        return math.nan
    shares = [stage_limit(data, row, stage) for stage in row["result"]["work"] if stage != "encode"]
    return sum(shares) if shares else math.nan


def stage_limit(data: Data, row: Row, stage: str) -> float:
    support = row["result"]["support"]
    found = data["limits"].get("cuda" if support["device"].startswith("cuda") else "cpu")
    work = row["result"]["work"].get(stage)
    if not found or work is None:
        return math.nan
    return limits.seconds(found, work, support["precision"] if stage in ("prepare", "step") else "fp32")


def share(data: Data, row: Row, stage: str) -> float:
    """Of the machine's limit that a stage reaches."""
    work = row["result"]["work"].get(stage)
    return stage_limit(data, row, stage) / work["seconds"] if work else math.nan


def _errors(data: Data) -> str:
    broken = [row for row in results.rows(data) if row["status"] != OK]
    if not broken:
        return ""
    return "## Errors\n\n" + "\n".join(f"- {label(data, row)}: {row['reason']}" for row in broken)


def label(data: Data, row: Row) -> str:
    case = cases.from_json(row["case"])
    times = f" x {case.batch}" if case.batch > 1 else ""
    return f"{case.model} {case.seconds:g} s{times}, {engine(data, row)}"


def _stages(data: Data) -> str:
    """Times, and in brackets the share of the machine's limit that each reaches."""
    head = ["case", "text", "prepare", "one step", "all steps", "decode", "first audio", "total", "times real time"]
    return grid([*head, "(encode)"], [_stage_times(data, row) for row in results.rows(data) if row["status"] == OK])


def _stage_times(data: Data, row: Row) -> list[str]:
    runs = row["result"]["runs"]
    times = {name: stats.median(found) for name in runs[0] if (found := _numbers(runs, name))}
    encode = row["result"]["work"].get("encode", {}).get("seconds")

    def both(value: float | None, stage: str) -> str:
        return seconds(value) if value is None else f"{seconds(value)} ({percent(share(data, row, stage))})"

    return [
        label(data, row),
        both(times["t5"], "text"),
        both(times["prepare"], "prepare"),
        both(times["step"], "step"),
        seconds(times["loop"]),
        both(times["decode"], "decode"),
        seconds(times.get("first_audio")),
        seconds(times["generate"]),
        f"{row['case']['seconds'] * row['case']['batch'] / times['generate']:.2f}",
        both(encode, "encode"),
    ]


def _costs(data: Data) -> str:
    head = [
        "case",
        "peak memory",
        "device memory",
        "load, cold",
        "load, warm",
        "start to first clip",
        "energy of a run",
    ]
    return grid(head, [_cost(data, row) for row in results.rows(data) if row["status"] == OK])


def _cost(data: Data, row: Row) -> list[str]:
    result, runs = row["result"], row["result"]["runs"]
    return [
        label(data, row),
        gigabytes(max(_numbers(runs, "peak_rss_mb"), default=None)),
        gigabytes(max(_numbers(runs, "device_peak_mb"), default=None)),
        f"{seconds(result['load']['cold'])} ({result['load']['cold_from']})",
        seconds(result["load"]["warm"]),
        f"{seconds(result['load']['to_first_clip'])} ({result['untimed']['steps']} steps)",
        _joules(runs),
    ]


def _numbers(runs: Sequence[Row], name: str) -> list[float]:
    return [run[name] for run in runs if isinstance(run.get(name), int | float)]


def _joules(runs: Sequence[Row]) -> str:
    spent = [sum(run["joules"].values()) for run in runs if run.get("joules")]
    return f"{stats.median(spent):.3g} J" if spent else "not reported"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "-"


def gigabytes(megabytes: float | None) -> str:
    return f"{megabytes / 1000:.2f} GB" if megabytes else "-"


def _about(data: Data) -> str:
    m, code = data["machine"], data["code"]
    memory = f"{m['memory'] / 1e9:.0f} GB" if m["memory"] else "memory unknown"
    gpus = "".join(f"; {gpu['name']}, driver {gpu['driver_version']}" for gpu in m["gpus"])
    commit = f"commit {code['commit'][:12]}" if code["commit"] else "no commit"
    facts = [
        f"**Machine**: {m['cpu']}, {m['usable_cores']} cores, {' '.join(m['flags'])}, {memory}{gpus}; {m['system']}",
        f"**Versions**: Python {m['python']}, " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()),
        f"**Code**: {commit}{', with changes since' if code['changed'] else ''}, sources {code['digest']}",
        *_settings(data),
        *(f"**Engine {name}**: absent; {reason}" for name, reason in data["absent"].items()),
        *(f"**{text}" for text in states(data)),
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _settings(data: Data) -> list[str]:
    """What all cases were run with; every value where they differ."""
    parts: list[str] = []
    for name in ("threads", "steps", "seed", "padding", "chunked"):
        values = dict.fromkeys(row["case"][name] for row in results.rows(data))
        parts.append(f"{name} {' and '.join('all cores' if value is None else f'{value}' for value in values)}")
    return [f"**Settings**: {', '.join(parts)}"]


def states(data: Data) -> list[str]:
    """Clock, temperature, load and noise at the beginning and end of each session."""
    found: list[str] = []
    for session in data["sessions"]:
        for when in ("began", "ended"):
            state = session.get(when)
            if state is None:
                found.append(f"State when it {when}**: not known, it was stopped")
                continue
            noise = state["noise"]["spread"]
            parts = [
                f"clock {state['clock_mhz']:.0f} MHz" if state["clock_mhz"] else "clock not readable",
                f"{state['temperature_c']:.0f} °C"
                if state["temperature_c"] is not None
                else "temperature not readable",
                f"load average {state['load_average'][0]:.1f}" if state["load_average"] else "load not readable",
                f"noise {100 * noise:.0f} %" + (", a noisy machine" if noise > machine.NOISY else ""),
            ]
            found.append(f"State when it {when}**: {', '.join(parts)}")
        if session.get("troubles"):
            found.append(f"Measured anyway**: {'; '.join(session['troubles'])}")
    rows = [row for row in results.rows(data) if row.get("troubles") or row.get("notes")]
    found += [
        f"(!) {label(data, row)}**: {'; '.join([*(row.get('troubles') or []), *row.get('notes', [])])}" for row in rows
    ]
    return found


def limits_text(data: Data) -> str:
    parts: list[str] = []
    for device, found in data["limits"].items():
        gemm = ", ".join(f"{name} {value:.3g}" for name, value in found["gemm_gflops"].items())
        parts.append(
            f"{device}: matrix products, GFLOP/s with {found['threads']} threads: {gemm}. Memory: "
            f"{found['bandwidth_gb_s']:.3g} GB/s. A stage's limit is the longer of its operations at the best product "
            "of its precision and its bytes (weights once per call, inputs, outputs) at that bandwidth; where the "
            "weights fit in a cache, as nano's do, it can be beaten."
        )
    return "\n\n".join(parts) or "Not measured."


def _quality(data: Data) -> str:
    if not data["quality"]:
        return "Not measured."
    head = [
        "model",
        "tier",
        "velocity cosine",
        "velocity",
        "text",
        "encoder",
        "decoder",
        "codec round trip",
        "spectral",
    ]
    rows = [
        [
            model,
            shown(data, asked) + (" (the reference)" if entry["reference"] == asked else ""),
            _number(entry.get("velocity_cosine"), "{:.6f}"),
            *(_number(entry.get(f"{name}_db"), "{:.1f} dB") for name in ("velocity", "text", "encode", "decode")),
            *(_number(entry.get(f"codec{name}_db"), "{:.1f} dB") for name in ("", "_spectral")),
        ]
        for model, tiers in data["quality"].items()
        for asked, entry in tiers.items()
    ]
    text = grid(head, rows) + (
        "\n\nAgainst the reference (torch, fp32), answers to the same inputs: one velocity per noise level from the "
        "same latents, signal to error. The codec columns are a round trip of synthetic music against that music, and "
        "say something of trained weights only."
    )
    scores = [
        f"{m}, {shown(data, e)}: {entry['clap']:.4f}"
        for m, t in data["quality"].items()
        for e, entry in t.items()
        if "clap" in entry
    ]
    return text + (f"\n\nScores by the function given with --clap: {'; '.join(scores)}." if scores else "")


def _number(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _peers(data: Data) -> str:
    if not data["peers"]:
        return "None was asked for (--peers)."
    rows: list[list[str]] = []
    for name, peer in data["peers"].items():
        if peer["version"] is None:
            rows.append([name, "absent", peer["reason"], "-", "-"])
        for key, row in peer["rows"].items():
            times = results.times(row)
            text = seconds(stats.median(times)) if times else row["reason"]
            peaks = [run["peak_rss_mb"] for run in row["result"]["runs"]] if times else []
            rows.append([name, peer["version"], key, text, gigabytes(max(peaks, default=None))])
    about = "\n".join(f"- {name}: {peer['about']}" for name, peer in data["peers"].items())
    return grid(["peer", "version", "work", "time, median", "peak memory"], rows) + "\n\n" + about


def _others() -> str:
    rows = [[o.hardware, o.stack, o.small or "-", o.medium or "-", o.memory or "-", o.source] for o in published.OTHERS]
    return grid(["hardware", "stack", "small", "medium", "memory", "source"], rows)
