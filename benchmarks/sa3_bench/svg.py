"""Plots as SVG text for a page that is one file: lines over logarithmic axes, bars, points. Its CSS has the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50
COLOURS = 8  # classes c0 to c7 of the page's style

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    name: str
    points: Sequence[Point]
    dashed: bool = False
    notes: Sequence[str] = ()  # what to show over each point


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        if self.logarithmic:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.logarithmic and self.high / self.low > 6:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
        else:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
            step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= 8)
            found = [step * k for k in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]
        slack = (self.high - self.low) * 1e-9
        return [value for value in found if self.low - slack <= value <= self.high + slack]


def lines(series: Sequence[Series], x: str, y: str, *, logarithmic: tuple[bool, bool] = (True, True)) -> str:
    """Series over two axes, with a legend below."""
    points = [point for one in series for point in one.points]
    if not points:
        return "<p>Nothing to plot.</p>"
    across = _axis([p[0] for p in points], LEFT, WIDTH - RIGHT, logarithmic=logarithmic[0])
    up = _axis([p[1] for p in points], HEIGHT - BOTTOM, TOP, logarithmic=logarithmic[1])
    parts = [*_frame(across, up, x, y)]
    for index, one in enumerate(series):
        colour = f"c{index % COLOURS}"
        path = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in one.points)
        dash = ' stroke-dasharray="6 4"' if one.dashed else ""
        parts.append(f'<polyline class="line {colour}" points="{path}"{dash}/>')
        for number, (a, b) in enumerate(one.points):
            note = one.notes[number] if number < len(one.notes) else f"{one.name}: {plain(a)}, {plain(b)}"
            parts.append(_dot(across.at(a), up.at(b), colour, note))
    return _svg(parts, HEIGHT, f"{y} against {x}") + legend([one.name for one in series])


def scatter(series: Sequence[Series], x: str, y: str, *, logarithmic: tuple[bool, bool] = (True, False)) -> str:
    """Named points; each carries its name beside it."""
    points = [point for one in series for point in one.points]
    if not points:
        return "<p>Nothing to plot.</p>"
    across = _axis([p[0] for p in points], LEFT, WIDTH - RIGHT, logarithmic=logarithmic[0])
    up = _axis([p[1] for p in points], HEIGHT - BOTTOM, TOP, logarithmic=logarithmic[1])
    parts = [*_frame(across, up, x, y)]
    for index, one in enumerate(series):
        for a, b in one.points:
            left, top = across.at(a), up.at(b)
            parts.append(_dot(left, top, f"c{index % COLOURS}", f"{one.name}: {plain(a)}, {plain(b)}", 6))
            end = left > WIDTH * 0.7
            parts.append(_text(left + (-10 if end else 10), top + 4, one.name, "end" if end else "start"))
    return _svg(parts, HEIGHT, f"{y} against {x}")


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """One bar per row, made of its parts, each row as long as its share of the longest."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    longest = max((sum(parts.values()) for _, parts in rows), default=0.0)
    if longest <= 0:
        return "<p>Nothing to plot.</p>"
    left, height = 250, 26
    drawn: list[str] = []
    for number, (label, parts) in enumerate(rows):
        top, begin = number * height + 4, float(left)
        drawn.append(_text(left - 8, top + 14, label, "end"))
        for name, value in parts.items():
            width = (WIDTH - left - 90) * value / longest
            title = f"<title>{escape(f'{label}, {name}: {plain(value)} {unit}')}</title>"
            colour = names.index(name) % COLOURS
            drawn.append(
                f'<rect class="bar c{colour}" x="{begin:.1f}" y="{top}" width="{width:.1f}" height="18">{title}</rect>'
            )
            begin += width
        drawn.append(_text(begin + 6, top + 14, f"{plain(sum(parts.values()))} {unit}", "start"))
    return _svg(drawn, len(rows) * height + 8, f"parts of each case in {unit}") + legend(names)


def legend(names: Sequence[str]) -> str:
    entries = "".join(f'<span><i class="c{i % COLOURS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{entries}</p>'


def plain(value: float) -> str:
    """Three digits, and no exponent for what a person reads."""
    return (
        f"{value:.3g}"
        if 0.001 <= abs(value) < 1000 or value == 0
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.2e}"
    )


def _axis(values: Sequence[float], begin: float, end: float, *, logarithmic: bool) -> Axis:
    low, high = min(values), max(values)
    if logarithmic:
        return Axis(low / 1.25, high * 1.25, begin, end, True)
    room = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, begin, end, False)


def _frame(across: Axis, up: Axis, x: str, y: str) -> list[str]:
    parts: list[str] = []
    for value in across.ticks():
        at = across.at(value)
        parts.append(f'<line class="rule" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(at, HEIGHT - BOTTOM + 18, plain(value), "middle"))
    for value in up.ticks():
        at = up.at(value)
        parts.append(f'<line class="rule" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 8, at + 4, plain(value), "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    return parts


def _dot(x: float, y: float, colour: str, note: str, radius: float = 4) -> str:
    return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(note)}</title></circle>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, about: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'
