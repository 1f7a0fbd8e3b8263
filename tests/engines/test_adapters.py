"""Adapters: what a file may be, and what a stack of them makes of a weight."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sa3_engines import adapters, models
from sa3_engines.adapters import ActiveAdapter, Adapter, Merger
from sa3_engines.errors import CheckpointError, InvalidRequest, ModelNotFound
from sa3_engines.filling import Host
from sa3_engines.openvino import OpenVinoEngine
from sa3_engines.quantise import Blocks

Array = np.ndarray
MODULE = "model.transformer.layers.3.self_attn.to_qkv"
KEY = MODULE + ".parametrizations.weight.0."


def make(kind: str, rows: int = 12, columns: int = 8, rank: int = 3, seed: int = 0, **more: Any) -> Adapter:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    tensors = (
        {"M_xs": draw(rank, rank)}
        if kind.endswith("xs")
        else {"lora_A": draw(rank, columns), "lora_B": draw(rows, rank)}
    )
    if "rows" in kind:
        tensors["magnitude"] = np.abs(draw(rows)) + 0.5
    if "cols" in kind:
        tensors["magnitude"] = np.abs(draw(columns)) + 0.5
    if "bora" in kind:
        tensors |= {"magnitude_r": np.abs(draw(rows)) + 0.5, "magnitude_c": np.abs(draw(columns)) + 0.5}
    fields = {"name": kind, "kind": kind, "rank": rank, "alpha": 2.0 * rank, "include": None, "exclude": ()}
    return Adapter(**{**fields, "modules": {MODULE: tensors}, **more})


def weight(rows: int = 12, columns: int = 8) -> Array:
    return np.random.default_rng(9).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("kind", adapters.TYPES)
def test_strength_zero_is_no_adapter(kind: str):
    assert Merger().weight(MODULE, weight(), [ActiveAdapter(adapter=make(kind), strength=0)]) is None


@pytest.mark.parametrize("kind", adapters.TYPES)
def test_a_convolution_is_its_matrix(kind: str):
    """A 1x1 convolution's weight has a third dimension, and keeps it."""
    stack = [ActiveAdapter(adapter=make(kind))]
    flat = Merger().weight(MODULE, weight(), stack)
    conv = Merger().weight(MODULE, weight()[:, :, None], stack)
    assert flat is not None and conv is not None and conv.shape == (12, 8, 1)
    np.testing.assert_array_equal(conv[:, :, 0], flat)


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(adapters.TYPES), strength=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_norms_are_the_magnitudes(kind: str, strength: float, seed: int):
    adapter = make(kind, seed=seed)
    got = Merger().weight(MODULE, weight(), [ActiveAdapter(adapter=adapter, strength=strength)])
    assert got is not None
    tensors = adapter.modules[MODULE]
    if "rows" in kind:
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), tensors["magnitude"], rtol=1e-4)
    elif "cols" in kind or "bora" in kind:
        name = "magnitude_c" if "bora" in kind else "magnitude"
        np.testing.assert_allclose(np.linalg.norm(got, axis=0), tensors[name], rtol=1e-4)
    else:
        rank = np.linalg.matrix_rank(got - weight(), tol=1e-4)
        assert rank <= adapter.rank


def test_each_sees_what_the_one_before_made():
    first, second = ActiveAdapter(adapter=make("lora")), ActiveAdapter(adapter=make("dora-rows", seed=1))
    merger = Merger()
    by_hand = merger.weight(MODULE, weight(), [first])
    assert by_hand is not None
    together = merger.weight(MODULE, weight(), [first, second])
    np.testing.assert_allclose(together, Merger().weight(MODULE, by_hand, [second]), rtol=1e-5, atol=1e-6)


def test_one_at_its_start_renormalises_what_came_before():
    """A module a DoRA was made for and has no tensors of still has the norms of the original weight."""
    lora = make("lora")
    dora = make("dora-rows", modules={"model.other": {}})
    got = Merger().weight(MODULE, weight(), [ActiveAdapter(adapter=lora), ActiveAdapter(adapter=dora)])
    assert got is not None
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), np.linalg.norm(weight(), axis=1), rtol=1e-5)
    assert Merger().weight(MODULE, weight(), [ActiveAdapter(adapter=dora)]) is None


def test_layer_filters_spare_layers():
    def active(skip: str) -> ActiveAdapter:
        return ActiveAdapter(adapter=make("lora"), skip=adapters.layer_filter(skip))

    assert Merger().weight(MODULE, weight(), [active("layers.[2-3]., to_cond_embed")]) is None
    assert Merger().weight(MODULE, weight(), [active("layers.[4-9].")]) is not None
    assert active("seconds").strength_on(adapters.SECONDS) == 1.0, "filters are for the transformer"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("a,b", ["a", "b"]), ("layers.[1-3]", ["layers.1", "layers.2", "layers.3"]), (["x[0-1].[5-5]"], ["x0.5", "x1.5"])],
)
def test_ranges(said: str | list[str], meant: list[str]):
    assert adapters.expand(said) == meant


def saved(path: Path, tensors: dict[str, Array], config: object = None) -> Path:
    save_file(
        tensors,
        path,
        {} if config is None else {"lora_config": config if isinstance(config, str) else json.dumps(config)},
    )
    return path


def test_a_file_without_configuration(tmp_path: Path):
    tensors = {KEY + "lora_A": np.ones((3, 8), np.float16), KEY + "lora_B": np.ones((12, 3), np.float16)}
    adapter = adapters.load(saved(tmp_path / "a.safetensors", tensors))
    assert (adapter.kind, adapter.rank, adapter.alpha) == ("lora", 3, 3.0)


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        ({"model.weight": np.ones(3, np.float32)}, None, "is not an adapter tensor"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, "{", "not JSON"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, "[]", "not an object"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"adapter_type": "vera"}, "of type 'vera'"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"rank": "abc"}, "its rank is 'abc'"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"rank": [4]}, "its rank"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"alpha": "x"}, "its alpha"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, '{"alpha": NaN}', "its alpha is nan"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, f'{{"alpha": 1{"0" * 400}}}', "its alpha is 10000"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, f'{{"rank": 1{"0" * 400}}}', "its rank is 10000"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"include": 5}, "its include"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, {"exclude": [3]}, "its exclude"),
        ({KEY + "lora_B": np.ones(3, np.float32)}, None, "no matrix"),
        ({KEY + "lora_A": np.full((3, 8), np.nan, np.float32)}, None, "no matrix of numbers"),
        ({KEY + "lora_A": np.ones((3, 8), np.float32)}, None, "lacks lora_B"),
        ({KEY + "M_xs": np.ones((3, 3), np.float32)}, {"adapter_type": "lora"}, "which lora does not"),
        ({KEY + "magnitude": np.ones(8, np.float32)}, None, "rank"),
    ],
)
def test_files_that_are_no_adapters(tmp_path: Path, tensors: dict[str, Array], config: object, says: str):
    with pytest.raises(CheckpointError, match=says):
        adapters.load(saved(tmp_path / "a.safetensors", tensors, config))


def test_pickles_are_refused_with_the_reason(tmp_path: Path):
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match="can run any code"):
        adapters.load(path)


def test_files_that_are_not_there_or_cut_off(tmp_path: Path):
    with pytest.raises(ModelNotFound, match="does not exist"):
        adapters.load(tmp_path / "none.safetensors")
    path = saved(tmp_path / "a.safetensors", {KEY + "lora_A": np.ones((3, 800), np.float32)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        adapters.load(path)


def test_one_for_another_model(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no such module"):
        adapters.check_fits(make("lora"), {"model.other": (12, 8)})
    with pytest.raises(CheckpointError, match=r"lora_A \(3, 8\), needs \(3, 9\)"):
        adapters.check_fits(make("lora"), {MODULE: (12, 9)})


def test_a_rank_beyond_the_weight_does_not_fit():
    with pytest.raises(CheckpointError, match="has no 9 directions"):
        adapters.check_fits(make("lora-xs", rank=9), {MODULE: (12, 8)})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", adapters.TYPES)
@pytest.mark.parametrize("strength", [1e25, 1e37, 3e38, 1e300, -1e38])
def test_a_strength_that_leaves_no_numbers_is_refused(kind: str, strength: float):
    """Or, where a renormalised weight would still have numbers, they are right: never zeros where a norm overflows."""
    stack = [ActiveAdapter(adapter=make("lora", seed=1)), ActiveAdapter(adapter=make(kind), strength=strength)]
    try:
        made = Merger().weight(MODULE, weight(), stack)
    except InvalidRequest as e:
        assert f"adapter {kind} at strength {strength:g} makes numbers of {MODULE} that are too large" in str(e)
    else:
        assert kind.startswith("lora") and made is not None and np.isfinite(made).all()


@pytest.mark.filterwarnings("error")
def test_what_half_precision_does_not_hold_is_refused_where_it_is_put():
    stack = [ActiveAdapter(adapter=make("lora"), strength=1e5)]
    made = Merger().weight(MODULE, weight(), stack)
    assert made is not None and np.abs(made).max() > 65504
    with pytest.raises(InvalidRequest, match="adapter lora at strength 100000 makes numbers"):
        Merger().weight(MODULE, weight(), stack, largest=65504)
    source = models.locate("nano")
    assert source.folder is not None
    host = Host(source.config, source.folder)
    module = "model.transformer.layers.0.self_attn.to_out"
    (rows, columns), rank = host.adaptable()[module], 3
    tensors = {"lora_A": np.ones((rank, columns), np.float32), "lora_B": np.ones((rows, rank), np.float32)}
    one = make("lora", modules={module: tensors})
    strong = [ActiveAdapter(adapter=one, strength=1e5)]
    assert len(list(host.merged(strong))) == 1
    with pytest.raises(InvalidRequest, match=f"adapter lora at strength 100000 makes numbers of {module}"):
        list(host.merged(strong, largest=65504))
    half = OpenVinoEngine(source.config, {"step": source.folder / "step.onnx"}, precision="fp16")
    with pytest.raises(InvalidRequest, match=f"adapter lora at strength 100000 makes numbers of {module}"):
        half.set_adapters(strong)


def test_what_is_no_file_of_an_adapter_is_told_as_that(tmp_path: Path):
    for name in ("a.ckpt", "a.safetensors", "a"):
        (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match=f"adapter {tmp_path / name} is an empty file$"):
            adapters.load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is no file; an adapter is one \.safetensors file"):
        adapters.load(tmp_path)


def test_ranges_without_end():
    with pytest.raises(InvalidRequest, match="longer than 1000"):
        adapters.expand("layers.[0-999999999]")


def test_half_precision_files(tmp_path: Path):
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {KEY + "lora_A": torch.ones(3, 8, dtype=torch.bfloat16), KEY + "lora_B": torch.ones(12, 3)}
    save_torch(tensors, tmp_path / "a.safetensors")
    assert adapters.load(tmp_path / "a.safetensors").modules[MODULE]["lora_A"].dtype == np.float32


def test_a_rank_beyond_the_weight():
    with pytest.raises(InvalidRequest, match="rank 9"):
        Merger().weight(MODULE, weight(), [ActiveAdapter(adapter=make("lora-xs", rank=9))])


# Processor time, on all weights that can be adapted of full-size `small`. Printed by
# `pytest tests/engines/test_adapters.py -m slow`.


@pytest.fixture(scope="module")
def small() -> dict[str, Array]:
    """Its transformer's weights by module, random."""
    from torch import device, nn

    from sa3_engines import models
    from stable_audio_3 import checkpoint

    with device("meta"):
        dit = checkpoint.build(models.locate("random:small-music").config).dit
    assert dit is not None
    rng = np.random.default_rng(0)
    shapes = {
        n: (len(m.weight), m.weight[0].numel()) for n, m in dit.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d))
    }
    return {f"model.{name}": rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("kind", adapters.TYPES)
def test_small_is_merged_in_seconds(
    kind: str, small: dict[str, Array], benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The longest round is the first, the shortest another strength of the same adapter. Then as a process after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = {module: make(kind, *base.shape, rank=16).modules[MODULE] for module, base in small.items()}
    adapter, strengths = make(kind, rank=16, modules=made), iter((1.0, 0.5, 1.0))

    def merge(merger: Merger) -> None:
        active = [ActiveAdapter(adapter=adapter, strength=next(strengths))]
        for module, base in small.items():
            assert merger.weight(module, base, active) is not None

    benchmark.pedantic(merge, args=(Merger(),), rounds=2)
    assert benchmark.stats.stats.max < 100
    start = time.process_time()
    merge(Merger())
    after = time.process_time() - start
    benchmark.extra_info["in the next process"] = after  # of --benchmark-json
    assert benchmark.stats.stats.min < 30 and after < 30


@pytest.mark.slow
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("blocks", [Blocks(8, 128), Blocks(4, 32)], ids=str)
def test_small_is_quantised_again_in_seconds(blocks: Blocks, small: dict[str, Array], benchmark: Any):
    benchmark.pedantic(lambda: [blocks.store(base) for base in small.values()], rounds=2)
    assert benchmark.stats.stats.min < 60
