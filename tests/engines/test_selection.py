"""Which backend runs a model, and what is said when none does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sa3_engines import bundle, models, selection
from sa3_engines.engine import Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_engines.models import Source


@pytest.fixture
def checkpoint(golden: Path) -> Source:
    return models.from_folder(golden / "tiny-small")


def test_auto_says_why_not_what_came_before(checkpoint: Source):
    engine, choice = selection.open_engine(checkpoint)
    assert engine.support.backend == choice.backend == "torch"
    assert any(reason.startswith("onnx: ") for reason in choice.refused)


def test_a_bundle_of_some_graphs_serves_who_needs_no_others(tmp_path: Path):
    """And whoever does hears what it lacks."""
    folder = tmp_path / "some"
    shutil.copytree(models.HERE / "nano", folder)
    found = bundle.load(folder)
    exact = found.tiers["exact"]
    some = replace(exact, graphs={"decode": exact.graphs["decode"]}, seconds={"decode": exact.seconds["decode"]})
    bundle.write(folder, replace(found, tiers={"exact": some}))
    source = models.from_folder(folder)
    engine, choice = selection.open_engine(source, needs=("decode",))
    assert (choice.backend, choice.passed_over) == ("onnx", ())
    engine.close()
    for needs, lacks in (((), "text, prepare, step, encode"), (("encode", "decode"), "encode")):
        engine, choice = selection.open_engine(source, needs=needs)
        assert choice.backend == "torch"
        assert choice.passed_over == (f"onnx: its bundle has no graph {lacks}",)
        engine.close()


def test_a_named_backend_is_never_replaced(checkpoint: Source):
    with pytest.raises(BackendUnavailable, match="backend onnx cannot run tiny-small"):
        selection.open_engine(checkpoint, "onnx")


def test_a_named_device_is_never_replaced(checkpoint: Source):
    with pytest.raises(BackendUnavailable, match=r"device cuda:7 is not here"):
        selection.open_engine(checkpoint, "torch", Options(device="cuda:7"))
    with pytest.raises(BackendUnavailable, match="no device 'abacus'"):
        selection.open_engine(checkpoint, "torch", Options(device="abacus"))


def test_a_named_precision_is_never_replaced(checkpoint: Source):
    with pytest.raises(BackendUnavailable, match="no precision 'int8'"):
        selection.open_engine(checkpoint, "torch", Options(precision="int8"))
    with pytest.raises(InvalidRequest, match="no precision 'int3'; choose from auto, exact, high"):
        selection.open_engine(checkpoint, "torch", Options(precision="int3"))
    with pytest.raises(InvalidRequest, match="memory 'tiny'; choose from normal, low"):
        Options(memory="tiny")


def test_unknown_names():
    with pytest.raises(InvalidRequest, match=r"choose from auto, .*onnx, torch"):
        selection.load("abacus")


def test_the_null_engine_is_never_chosen():
    assert "null" not in selection.names()
    assert selection.load("null").why_not() is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(checkpoint: Source, precision: str):
    """A tier of its own: the transformer in half precision, the rest in fp32."""
    import numpy as np

    from sa3_engines import graphs, tables

    outs = []
    for name in ("fp32", precision):
        engine, _ = selection.open_engine(checkpoint, "torch", Options(precision=name, threads=1))
        assert engine.support.precision == name
        rng = np.random.default_rng(0)
        x, context, cond = (rng.standard_normal(s).astype(np.float32) for s in ((1, 32, 20), (1, 25, 48), (1, 48)))
        assert engine.config.dit is not None
        prepared = engine.run("prepare", graphs.prepare(engine.config, 20, context, cond, None))
        features = tables.timestep_features(np.array([0.7], np.float32), engine.config.dit)
        outs.append(engine.run("step", {**prepared, "x": x, "timestep": features})["velocity"].ravel())
    cosine = outs[0] @ outs[1] / np.linalg.norm(outs[0]) / np.linalg.norm(outs[1])
    assert 0.999 < cosine < 1 - 1e-9
