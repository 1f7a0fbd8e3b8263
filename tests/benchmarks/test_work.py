"""The counted work against PyTorch's own counter, which sees the products that are really called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sa3_bench import limits, work
from sa3_engines import graphs, models
from sa3_engines.config import ModelConfig
from stable_audio_3 import checkpoint

ITEMS, LATENTS, CONTEXT, TOKENS = 2, 30, 12, 9
NAMES = ("tiny-small", "tiny-medium", "small-music", "medium")


@pytest.fixture(scope="module", params=NAMES)
def config(request: pytest.FixtureRequest, golden: Path) -> ModelConfig:
    """Miniatures and the released sizes: on the meta device nothing is computed."""
    if request.param.startswith("tiny"):
        return models.from_folder(golden / request.param).config
    return models.released_config(request.param)


def counted(call: Callable[[], Any]) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device="meta")


def rope(length: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    return zeros(length, dims), zeros(length, dims)


@pytest.mark.parametrize("local", [1, LATENTS])
def test_transformer(config: ModelConfig, local: int):
    with torch.device("meta"):
        networks = checkpoint.build(config)
    text, dit, c = networks.text, networks.dit, config.dit
    assert text is not None and dit is not None and c is not None and config.text is not None
    t, sizes = config.text, {"items": ITEMS, "latents": LATENTS, "context": CONTEXT, "local": local, "tokens": TOKENS}
    made: list[Any] = []
    inputs = zeros(ITEMS, CONTEXT, c.context_width), zeros(ITEMS, c.global_width), zeros(ITEMS, c.local_width, local)
    calls: dict[str, Callable[[], Any]] = {
        "text": lambda: text(zeros(ITEMS, TOKENS, t.width), zeros(ITEMS, TOKENS), rope(TOKENS, t.head_dim)),
        "prepare": lambda: made.append(dit.prepare(*inputs)),
        "step": lambda: dit.step(
            zeros(ITEMS, c.channels, LATENTS),
            zeros(ITEMS, c.timestep_features),
            made[0],
            rope(c.memory_tokens + LATENTS, c.rope_dims),
        ),
    }
    for graph, call in calls.items():
        assert work.count(config, graph, sizes).flops == counted(call), graph


def test_autoencoder(config: ModelConfig):
    with torch.device("meta"):
        codec = checkpoint.build(config).autoencoder
    ae, latents = config.autoencoder, 8
    samples = 4 * graphs.encode_multiple(config)
    tables = []
    for half, count in ((ae.encoder, samples // config.ratio), (ae.decoder, latents)):
        tables.append(rope(count * half.group if half.window else half.chunk_tokens, half.rope_dims))
    assert work.count(config, "encode", {"items": ITEMS, "samples": samples}).flops == counted(
        lambda: codec.encode(zeros(ITEMS, ae.channels, samples), tables[0])
    )
    assert work.count(config, "decode", {"items": ITEMS, "latents": latents}).flops == counted(
        lambda: codec.decode(zeros(ITEMS, ae.latent_channels, latents), tables[1])
    )


def test_the_reference_step_of_30_seconds():
    """About 395 GFLOP, of which about 11 % does not depend on the step, as was measured of upstream's code."""
    config = models.released_config("small-music")
    assert config.dit is not None
    reference = work.reference_step(config.dit, 388, 256)
    assert reference == pytest.approx(395e9, rel=0.05)
    ours = work.count(config, "step", {"items": 1, "latents": 388, "context": 257, "local": 1}).flops
    assert 1 - ours / reference == pytest.approx(0.11, abs=0.02)


def test_half_the_precision_moves_half_the_weights():
    config = models.released_config("small-music")
    sizes = {"items": 1, "latents": 10, "context": 1, "local": 1}
    full, half = (work.count(config, "step", sizes, precision) for precision in ("fp32", "fp16"))
    assert full.flops == half.flops
    assert half.bytes < 0.51 * full.bytes


def test_the_peak_is_that_of_the_precision_or_of_fp32_where_it_is_only_imitated():
    gemm = {"numpy fp32": 100.0, "torch fp32": 90.0, "torch bf16": 300.0, "torch int8": 2.0}
    for precision, expected in (
        ("bf16", (300.0, "torch bf16")),
        ("int8", (100.0, "numpy fp32")),
        ("int4", (100.0, "numpy fp32")),
        ("fp32", (100.0, "numpy fp32")),
    ):
        assert limits.peak({"gemm_gflops": gemm}, precision) == expected
    assert limits.peak({"gemm_gflops": {"torch fp16": 7.0}}, "int8") == (7.0, "torch fp16")
    bytes_ = {"gemm_gflops": {"numpy fp32": 100.0, "torch int8": 400.0}}
    assert limits.peak(bytes_, "int4") == (400.0, "torch int8")  # four bits are multiplied as bytes
