"""One HTML page about a run: curves of its losses, what the model sounds like, and what was measured."""

from __future__ import annotations

import base64
import html
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sa3_runtime import Pipeline, Request, audio
from sa3_training import distilling, flow, measures, running
from sa3_training.measures import Samples
from sa3_training.recipe import Plan

STAGES = {"autoencoder": "loss", flow.Flow.name: "loss", distilling.Distillation.name: "loss"}
SHEET = (
    ("a sine tone, note A4", 2.0),
    ("plucked string, note C3", 2.5),
    ("bell, note G5", 3.0),
    ("C major chord on a synth pad", 4.0),
    ("A minor chord, saw", 3.0),
    ("one kick drum", 1.5),
    ("a snare hit on the left", 1.5),
    ("kick drum loop, 120 bpm", 4.0),
    ("rock drums, 100 bpm", 5.0),
    ("rising C major scale, square", 3.0),
    ("a sweep going down", 3.0),
    ("wind", 4.0),
)
WIDTH, HEIGHT, MARGIN = 640, 220, 40
QUIETEST_DB = -80.0
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:right}td:first-child{text-align:left}"
    "figure{display:inline-block;margin:.5rem 1rem .5rem 0}figcaption{max-width:300px}audio{width:300px;display:block}"
    "img{width:300px;height:150px;display:block;image-rendering:pixelated}"
)


def write(plan: Plan, model: str, path: Path, measured: Path | None = None) -> None:
    parts = [f"<title>{html.escape(model)}</title><style>{STYLE}</style><h1>{html.escape(model)}</h1>"]
    for stage, key in STAGES.items():
        log = running.path_of(plan.folder, stage).with_suffix(".jsonl")
        if log.is_file():
            rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
            parts.append(f"<h2>{stage}</h2>{curve([(row['step'], row[key]) for row in rows], key)}")
    if measured is not None:
        parts.append("<h2>Measured</h2>" + table(json.loads(measured.read_text("utf-8"))))
    with Pipeline.load(model) as pipeline:
        parts.append("<h2>Sounds</h2>" + "".join(_figures(pipeline)))
    path.write_text("<!doctype html><meta charset=utf-8>" + "\n".join(parts) + "\n", "utf-8")


def curve(points: Sequence[tuple[float, float]], label: str) -> str:
    """As an SVG line; losses fall fast and then slowly, so up is logarithmic."""
    known = [(step, value) for step, value in points if value > 0]
    if len(known) < 2:
        return "<p>too short for a curve</p>"
    steps, heights = np.array(known).T
    heights = np.log10(heights)
    low, high = float(heights.min()), float(heights.max())
    x = MARGIN + (WIDTH - 2 * MARGIN) * steps / steps.max()
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (heights - low) / max(high - low, 1e-9)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    ticks = (
        f'<text x="2" y="{y_at}">{10**value:.3g}</text>' for value, y_at in ((high, MARGIN), (low, HEIGHT - MARGIN))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" font-size="11">{"".join(ticks)}'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end">{int(steps.max())} steps</text>'
        f'<text x="{MARGIN}" y="16">{html.escape(label)}</text>'
        f'<polyline fill="none" stroke="#1769aa" stroke-width="1.5" points="{line}"/></svg>'
    )


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """A row a property, from what `quality --json` wrote."""
    names = list(dict.fromkeys(name for report in reports for name in report["properties"]))
    head = "".join(f"<th>{html.escape(str(report['model']))}</th>" for report in reports)
    rows: list[str] = []
    for name in names:
        cells = (_cell(report["properties"].get(name)) for report in reports)
        rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(tally: Mapping[str, int] | None) -> str:
    if not tally or not tally["of"]:
        return "<td></td>"
    return f"<td>{tally['passed']}/{tally['of']} {tally['passed'] / tally['of']:.0%}</td>"


def _figures(pipeline: Pipeline) -> Iterator[str]:
    for seed, (prompt, seconds) in enumerate(SHEET):
        sound = pipeline.generate(Request(prompt=prompt, seconds=seconds, seed=seed)).sounds[0]
        picture = base64.b64encode(png(spectrogram(sound.samples))).decode()
        heard = base64.b64encode(audio.encode(sound, "ogg")).decode()
        yield (
            f'<figure><img alt="" src="data:image/png;base64,{picture}">'
            f'<audio controls preload="none" src="data:audio/ogg;base64,{heard}"></audio>'
            f"<figcaption>{html.escape(prompt)}, {seconds:g} s</figcaption></figure>"
        )


def spectrogram(samples: Samples) -> np.ndarray:
    """(rows, columns) uint8, low frequencies at the bottom, on a scale of octaves."""
    magnitudes = measures.stft(measures.mono(samples), 4096, 512).T
    bins = np.geomspace(4, magnitudes.shape[0] - 1, 150).astype(int)[::-1]
    level = 20 * np.log10(np.maximum(magnitudes[bins], 1e-9) / max(float(magnitudes.max()), 1e-6))
    return (255 * np.clip(1 - level / QUIETEST_DB, 0, 1)).astype(np.uint8)


def png(grey: np.ndarray) -> bytes:
    """An 8-bit greyscale picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = grey.shape
    lines = np.concatenate((np.zeros((height, 1), np.uint8), grey), axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
