"""The table writer: what was measured, what is quoted, and that an error has no time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sa3_bench import page, report, svg, table
from sa3_bench.cases import Case

from .conftest import bad, good, result

TORCH = Case(model="small-music", weights="random", source="random:small-music", seconds=5.0, backend="torch")
ONNX = replace(TORCH, backend="onnx")


def cells(markdown: str) -> list[list[str]]:
    """The first table."""
    lines = [line for line in markdown.split("\n\n")[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_measured_columns_stand_beside_quoted_ones():
    head, first, *_ = cells(table.markdown(result((TORCH, good([7.0, 6.5, 8.0], TORCH)))))
    row = dict(zip(head, first, strict=True))
    assert row["model"] == "small-music (random weights)" and row["length"] == "5 s"
    assert row["here: torch fp32"] == "7 s (6.5 s - 8 s, 3 runs)"
    assert row["quoted: H200"] == "0.41 s" and row["quoted: H200 + TensorRT"] == "17 ms"
    assert row["quoted: peak on H200"] == "1.69 GB"
    assert all(name.startswith(("here", "quoted", "model", "length")) for name in head)


def test_published_lengths_that_were_not_run_are_rows_too():
    rows = cells(table.markdown(result((TORCH, good([7.0], TORCH)))))
    assert [row[1] for row in rows[1:]] == ["5 s", "30 s", "120 s"]
    assert rows[2][2] == "not run" and "0.46 s" in rows[2]


def test_an_error_is_a_row_with_its_reason_and_no_time():
    data = result((TORCH, good([7.0], TORCH)), (ONNX, bad("crashed (SIGSEGV)")))
    text = table.markdown(data)
    row = dict(zip(*cells(text)[:2], strict=True))
    assert row["here: onnx auto"] == "**error**"
    assert "- small-music 5 s, onnx auto: crashed (SIGSEGV)" in text
    page_text = report.html(data, Path("nowhere"))
    assert "crashed (SIGSEGV)" in page_text and "onnx auto: 0" not in page_text


def test_shares_of_the_limit():
    data = result((TORCH, good([7.0], TORCH)))
    row = data["cases"][TORCH.key]
    # 1 GFLOP at 100 GFLOP/s is 10 ms; 1 MB at 10 GB/s is less; it took 100 ms.
    assert table.share(data, row, "step") == pytest.approx(0.1)
    assert table.limit(data, row) == pytest.approx(0.03)


def test_bytes_bound_stages_too():
    data = result((TORCH, good([7.0], TORCH)))
    row = data["cases"][TORCH.key]
    row["result"]["work"]["step"]["bytes"] = 5e9
    assert table.stage_limit(data, row, "step") == pytest.approx(0.5)


def test_state_and_troubles_are_written():
    row = good([7.0], TORCH) | {"troubles": ["on battery (40 %)"]}
    text = table.markdown(result((TORCH, row)))
    assert "on battery (40 %)" in text and "(!)" in text
    assert "temperature not readable" in text and "clock 2600 MHz" in text


def test_quality_and_peers_are_written():
    quality = {"small-music random": {ONNX.engine: {
        "reference": "torch auto", "velocity_cosine": 0.999, "velocity_db": 30.0, "text_db": 40.0, "encode_db": None,
        "decode_db": 50.0, "codec_db": 1.0, "codec_spectral_db": 2.0}}}  # fmt: skip
    peers = {"upstream": {"version": None, "reason": "not installed", "about": "an API", "rows": {}}}
    text = table.markdown(result((ONNX, good([7.0], ONNX)), quality=quality, peers=peers))
    assert "| small-music random | onnx fp32 | 0.999000 | 30.0 dB | 40.0 dB | - | 50.0 dB | 1.0 dB | 2.0 dB |" in text
    assert "| upstream | absent | not installed | - | - |" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.017, "17 ms"), (1.31, "1.31 s"), (57.2, "57.2 s"), (123.4, "123 s"), (None, "-")]
)
def test_seconds_are_read_easily(value: float | None, shown: str):
    assert table.seconds(value) == shown


def test_the_report_is_one_file_that_asks_for_nothing():
    text = report.html(result((TORCH, good([7.0, 7.1], TORCH)), (ONNX, good([3.0, 3.1], ONNX))), Path("nowhere"))
    assert text.count("<svg") == 3 and "here: torch fp32" in text and "quoted: Mac CPU" in text
    assert "src=" not in text and "href=" not in text and "url(" not in text and "@import" not in text


def test_markdown_to_html():
    html = page.from_markdown("# A\n\n- **b** & c\n\n| x | quoted: y |\n| --- | --- |\n| 1 | a \\| b |")
    assert "<h1>A</h1>" in html and "<li><b>b</b> &amp; c</li>" in html
    assert '<td class="quoted">a | b</td>' in html and "<td>1</td>" in html


def test_plots_of_nothing_and_of_one_point():
    assert (
        "Nothing" in svg.lines([], "x", "y")
        and "Nothing" in svg.bars([], "s")
        and "Nothing" in svg.scatter([], "x", "y")
    )
    one = svg.Series(name="a<b", points=[(5.0, 7.0)])
    assert "a&lt;b" in svg.lines([one], "x", "y") and "nan" not in svg.scatter([one], "x", "y")
