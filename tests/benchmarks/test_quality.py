"""The measures of quality on sounds whose answer is known."""

from __future__ import annotations

import pytest

from sa3_bench import measure, quality
from sa3_bench.cases import Case
from sa3_engines.errors import InvalidRequest


def test_what_is_wrong():
    near = {"velocity_cosine": 0.99, "decode_cosine": 0.95}
    assert quality.wrong(near) is None
    assert "velocity cosine 0.100" in str(quality.wrong(near | {"velocity_cosine": 0.1}))
    assert "decode cosine nan" in str(quality.wrong(near | {"decode_cosine": float("nan")}))


def test_a_model_agrees_with_itself_and_not_with_none(tiny_model):
    found = {}
    for backend in ("torch", "null"):
        pipeline, _ = measure.open_pipeline(Case(model=str(tiny_model), seconds=1.0, backend=backend, threads=1))
        with pipeline:
            found[backend] = quality.answers(pipeline)
    same = quality.parity(found["torch"], found["torch"])
    assert same["velocity_cosine"] == pytest.approx(1.0) and same["velocity_db"] == 200.0
    assert quality.wrong(quality.parity(found["torch"], found["null"])) is not None
    assert set(quality.codec(found["torch"])) == {"codec_db", "codec_spectral_db"}


def test_the_hook_for_a_score():
    assert callable(quality.scorer("math:fsum"))
    for name in ("nowhere:nothing", "math:nothing", "math", ""):
        with pytest.raises(InvalidRequest, match="--clap"):
            quality.scorer(name)
