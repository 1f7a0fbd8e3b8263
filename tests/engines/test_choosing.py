"""Which tier of a bundle is taken, and which export is advised where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import advice, bundle, choosing, models, processor, selection
from sa3_engines.engine import Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest

pytestmark = pytest.mark.usefixtures("cache")
HAVE = frozenset({"avx2", "avx512_bf16"})


@pytest.mark.parametrize(
    ("asked", "have", "taken"),
    [
        ("auto", HAVE, "high"),
        ("auto", frozenset({"avx2"}), "exact"),
        ("exact", HAVE, "exact"),
        ("fp32", HAVE, "exact"),
        ("bf16", HAVE, "high"),
        ("fast", HAVE, "fast"),
        ("int8", frozenset[str](), "fast"),
    ],
)
def test_the_fastest_that_keeps_the_promise(folder: Path, asked: str, have: frozenset[str], taken: str):
    assert choosing.choose(bundle.load(folder), asked, have)[0] == taken


def test_a_slow_half_precision_is_not_taken(folder: Path):
    found = bundle.load(folder)
    slow = replace(found.tiers["high"], seconds={"step": 2.0})
    assert choosing.choose(replace(found, tiers={**found.tiers, "high": slow}), "auto", HAVE)[0] == "exact"


def test_a_tier_that_cannot_be_had(folder: Path):
    found = bundle.load(folder)
    with pytest.raises(BackendUnavailable, match=r"no precision 'compact', only exact \(fp32\)"):
        choosing.choose(found, "compact", HAVE)
    with pytest.raises(BackendUnavailable, match=r"high \(bf16\) .* needs avx512_bf16, which this machine's processor"):
        choosing.choose(found, "high", {"avx2"})
    with pytest.raises(BackendUnavailable, match=r"holds only fast .* which auto never takes"):
        choosing.choose(replace(found, tiers={"fast": found.tiers["fast"]}), "auto", HAVE)
    with pytest.raises(InvalidRequest, match="no precision 'best'"):
        choosing.choose(found, "best", HAVE)


def test_four_bits_where_no_layer_is_large_enough(folder: Path):
    """Another export would have none either."""
    found = bundle.load(folder)
    small = replace(found, tiers={**found.tiers, "compact": replace(found.tiers["fast"], type="int8")})
    with pytest.raises(BackendUnavailable, match=r"no precision 'int4', only .*compact \(int8\).*; take compact$"):
        choosing.choose(small, "int4", HAVE)
    assert choosing.choose(small, "compact", HAVE)[0] == "compact"


AVX2 = frozenset({"avx2"})
BYTES = frozenset({"avx512_vnni"})


@pytest.mark.parametrize(
    ("target", "asked", "flags", "held", "said"),
    [
        ("onnx", "auto", AVX2, {}, "run: sa3-export --model M --target onnx"),
        ("onnx", "fast", AVX2, {"onnx": {"exact"}}, "run: sa3-export --model M --target onnx --precision exact,fast"),
        ("onnx", "int4", AVX2, {}, "run: sa3-export --model M --target onnx --precision exact,compact"),
        (
            "onnx",
            "auto",
            AVX2,
            {"onnx": {"compact"}},
            "run: sa3-export --model M --target onnx --precision exact,compact",
        ),
        ("openvino", "fast", AVX2, {}, "run: sa3-export --model M --target onnx --precision exact,fast"),
        ("openvino", "int8", BYTES, {}, "run: sa3-export --model M --target openvino --precision exact,fast"),
        (
            "onnx",
            "high",
            HAVE,
            {"onnx": {"exact", "compact"}, "openvino": {"high", "fast"}},
            "run: sa3-export --model M --target openvino --precision exact,high",  # fast is not made here
        ),
        ("onnx", "bf16", HAVE, {}, "run: sa3-export --model M --target openvino --precision exact,high"),
        ("onnx", "fp16", HAVE, {}, "no export on this machine has fp16: the half precision of this processor is bf16"),
        ("onnx", "high", AVX2, {}, "no export on this machine has high: this processor has no half precision (avx512_"),
    ],
)
def test_what_to_run_can_be_run_here(target: str, asked: str, flags: frozenset[str], held: Any, said: str):
    got = advice.export("M", target, asked, held, flags)
    assert got.startswith(said) and (got == said or not said.startswith("run"))


def test_what_is_advised_is_what_the_exporter_makes(monkeypatch: pytest.MonkeyPatch):
    from sa3_exporters import targets

    for have in ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"):
        monkeypatch.setattr(processor, "flags", lambda have=have: frozenset({have}))
        for target in models.TARGETS:
            pytest.importorskip(target)
            for name, tier in targets.load(target).tiers().items():
                can = advice.why_not(target, name, processor.flags()) is None
                assert can == (not isinstance(tier, str)), (have, target, name)
                if not isinstance(tier, str):
                    assert advice.why_not(target, tier.type, processor.flags()) is None


def test_an_export_is_advised_by_what_was_typed(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    source = models.Source(name="my model", config=models.released_config("nano"), folder=folder, bundles=(folder,))
    with pytest.raises(
        BackendUnavailable, match=rf"; run: sa3-export --model {folder} --target onnx --precision exact,"
    ):
        choosing.opened(source, "onnx", "compact")
    with pytest.raises(BackendUnavailable, match=r"only exact, .*; run: sa3-export --model /no/all "):
        selection.load("torch").open(replace(source, folder=Path("/no/all"), bundles=()), Options(precision="int8"))
    assert choosing.as_typed(replace(source, folder=Path("my model"))) == '"my model"'
    assert choosing.as_typed(replace(source, name="owner/repo/sub", repo="owner/repo")) == "owner/repo/sub"
