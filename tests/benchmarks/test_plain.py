"""The baseline of tiers: more work for the same sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sa3_bench.observed import Observed
from sa3_bench.plain import Plain
from sa3_runtime.coding import Chunking
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request


@pytest.mark.parametrize("seconds", [2.0, 5.2])
def test_it_works_more_and_sounds_the_same(tiny: Pipeline, seconds: float):
    """The longer one is decoded in windows."""
    request = Request(prompt="warm pads", seconds=seconds, steps=2, seed=3, padding_seconds=1.0)
    fast = tiny.generate(request)
    made = fast.latents.shape[2]
    assert (made >= Chunking().size) == (seconds > 5)
    seen = Observed(tiny.engine)
    plain = Pipeline(Plain(seen, made), tiny.source, tiny._tokenizer)  # pyright: ignore
    slow = plain.generate(replace(request, chunked_decode=False))
    np.testing.assert_allclose(slow.latents, fast.latents, atol=1e-4 * np.abs(fast.latents).max())
    np.testing.assert_allclose(slow.audio, fast.audio, atol=1e-3 * np.abs(fast.audio).max())
    graphs = [call.graph for call in seen.calls]
    assert graphs.count("prepare") == graphs.count("step") == 2
    windows = Chunking().windows(made) if seconds > 5 else [(0, 0, made)]
    decoded = sum(call.sizes["latents"] for call in seen.calls if call.graph == "decode")
    assert decoded == (made if len(windows) == 1 else Chunking().size * len(windows))
