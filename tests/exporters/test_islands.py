"""The table of layers that stay fp32, the rule of those that take four bits, and when a table is doubted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sa3_engines import models
from sa3_engines.errors import InvalidRequest
from sa3_exporters import islands, placing, targets
from sa3_exporters.targets import Tier

FEED_FORWARD = "model.model.transformer.layers.0.ff.ff.2.weight"


def test_a_table_of_ones_own(tmp_path: Path):
    file = tmp_path / "islands.json"
    file.write_text('{"tiers": {"fast": {"exact": ["mine"]}}, "targets": {"openvino": {"fast": {"exact": ["its"]}}}}')
    assert islands.patterns("onnx", "fast", file) == ("mine",)
    assert islands.patterns("openvino", "fast", file) == ("its",)
    assert islands.patterns("onnx", "compact", file) == islands.patterns("onnx", "compact")
    assert islands.patterns("onnx", "exact", file) == ()
    made = targets.load("onnx").tiers(file)["fast"]
    assert isinstance(made, Tier) and made.exact == ("mine",)


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "not JSON"), ('{"tiers": {"fats": {}}}', "no tier 'fats'"), ('{"tiers": {"fast": ["x"]}}', "as sensitivity"),
     ('{"tiers": {"fast": {"exact": ["("]}}}', "as sensitivity"), ("[]", "as sensitivity"),
     ('{"a": 1}', "as sensitivity"), ('{"targets": {"onxn": {}}}', "no target 'onxn'"), (None, "cannot be read")],
)  # fmt: skip
def test_a_table_that_is_none(tmp_path: Path, text: str | None, what: str):
    file = tmp_path / "islands.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidRequest, match=what):
        islands.patterns("onnx", "fast", file)


def test_a_table_derived_from_other_weights_is_doubted(golden: Path, tmp_path: Path):
    source = models.from_folder(golden / "tiny-small")
    file, own, plain = (tmp_path / name for name in ("other.json", "own.json", "plain.json"))
    file.write_text(json.dumps({"tiers": {}, "model": "another", "digest": "0" * 64}))
    own.write_text(json.dumps({"tiers": {}, "digest": placing.digest(source)}))
    plain.write_text('{"tiers": {}}')  # written by hand: it claims nothing
    said = islands.doubt(file, source, "onnx") or ""
    assert "other weights (those of another)" in said and "\n" not in said
    assert f"--model {golden / 'tiny-small'} --target onnx --tier fast --out {file}" in said
    assert [islands.doubt(path, source, "onnx") for path in (own, plain, None)] == [None, None, None]


def test_patterns_that_find_nothing_are_told(tmp_path: Path):
    """Of a user's table alone: the built-in one is for all models."""
    tier = Tier(name="fast", type="int8", exact=(r"\.ff\.", r"\.fff\."))
    keys = ["model.model.transformer.layers.0.ff.ff.2.weight"]
    said = islands.idle(tmp_path / "i.json", [tier, tier], keys)
    assert said == f"table of islands {tmp_path / 'i.json'}: no weight is called like {tier.exact[1]}"
    assert islands.idle(tmp_path / "i.json", [tier], [*keys, "a.fff.weight"]) is None
    assert islands.idle(None, [tier], keys) is None


@pytest.mark.parametrize(
    ("tier", "key", "shape", "expected"),
    [
        ("compact", FEED_FORWARD, (1024, 1024), "int4"),
        ("compact", FEED_FORWARD, (1024, 1023), "int8"),
        ("compact", "model.model.transformer.layers.0.self_attn.to_qkv.weight", (4096, 4096), "int8"),
        ("compact", "pretransform.model.decoder.layers.3.transformers.0.ff.ff.2.weight", (4096, 4096), "int8"),
        ("compact", "model.model.to_timestep_embed.0.weight", (4096, 4096), "fp32"),
        ("fast", FEED_FORWARD, (1024, 1024), "int8"),
        ("exact", FEED_FORWARD, (1024, 1024), "fp32"),
    ],
)
def test_four_bits_are_for_large_feed_forwards(tier: str, key: str, shape: tuple[int, int], expected: str):
    made = targets.load("onnx").tiers()[tier]
    assert isinstance(made, Tier) and islands.number_type(made, key, shape) == expected
