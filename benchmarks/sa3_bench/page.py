"""The frame of a report: one HTML file with its style inside, that asks nothing of any network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --line: #d5d9e0; --ground: #fff; --quoted: #f1f3f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #39404a; --ground: #14171b; --quoted: #20252c; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
       max-width: 1100px; padding: 1.5rem 1rem 4rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border: 1px solid var(--line); padding: .3rem .55rem; text-align: left; vertical-align: top; }
th.quoted, td.quoted { background: var(--quoted); color: var(--soft); }
td b { color: #c0392b; }
svg { width: 100%; height: auto; max-width: 820px; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.rule { stroke: var(--line); stroke-width: 1; }
.line { fill: none; stroke: currentColor; stroke-width: 2; }
.dot, .bar { fill: currentColor; }
.legend span { margin-right: 1.2rem; font-size: 14px; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; background: currentColor; margin-right: .4em; }
.c0 { color: #2f6fde; } .c1 { color: #d9622b; } .c2 { color: #2a9d6a; } .c3 { color: #a04ac0; }
.c4 { color: #b8901f; } .c5 { color: #c53a5b; } .c6 { color: #3aa3b5; } .c7 { color: #7a828c; }
figure { margin: 0 0 1rem; } figcaption { font-size: 14px; color: var(--soft); }
audio { width: 100%; max-width: 420px; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def from_markdown(text: str) -> str:
    """The few forms our own Markdown has: headings, tables, lists, paragraphs, bold, emphasis."""
    return "\n".join(_block(block) for block in re.split(r"\n\n+", text.strip()))


def _block(block: str) -> str:
    rows = block.split("\n")
    heading = re.match(r"(#+) (.*)", block)
    if heading:
        level = len(heading[1])
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if rows[0].startswith("| "):
        return _table(rows)
    if rows[0].startswith("- "):
        return "<ul>" + "".join(f"<li>{_inline(row[2:])}</li>" for row in rows) + "</ul>"
    return f"<p>{_inline(' '.join(rows))}</p>"


def _table(rows: Sequence[str]) -> str:
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    quoted = [cell.startswith("quoted") for cell in cells[0]]

    def row(tag: str, texts: Sequence[str]) -> str:
        marks = (' class="quoted"' if q else "" for q in quoted)
        return "<tr>" + "".join(f"<{tag}{m}>{_inline(t)}</{tag}>" for m, t in zip(marks, texts, strict=True)) + "</tr>"

    body = "".join(row("td", texts) for texts in cells[2:])
    return f'<div class="scroll"><table><thead>{row("th", cells[0])}</thead><tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text, quote=False))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)
