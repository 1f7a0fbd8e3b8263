"""What the gate asks: music under noise, lengths up to the longest, and the codec there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sa3_engines import likeness, models
from sa3_engines.bundle import Profile
from sa3_engines.engine import Engine, Inputs, Options, Outputs
from sa3_engines.errors import ParityError
from sa3_exporters import parity
from sa3_exporters.parity import Gate
from stable_audio_3.engine import BACKEND as TORCH

PROFILE = Profile(min_seconds=0.0, opt_seconds=1.0, max_seconds=2.0)


@pytest.fixture(scope="module", params=["tiny-small", "tiny-medium"])
def reference(request: pytest.FixtureRequest, golden: Path) -> Iterator[Engine]:
    engine = TORCH.open(models.from_folder(golden / request.param), Options(threads=1))
    yield engine
    engine.close()


def test_a_step_is_given_what_a_sampler_would_have(reference: Engine):
    """Nearly clean latents of music at the last noise levels, noise at the first."""
    alike = dict[str, float]()
    for case in parity.cases("step", reference, PROFILE):
        assert case.step is not None
        x = case.step["x"]
        music = parity._latents(reference, 2, parity.PIECE)
        looped = music[: len(x), :, np.arange(x.shape[2]) % parity.PIECE]
        alike[case.size.rpartition(" t ")[2]] = likeness.cosine(looped, x)
    assert list(alike) == ["1", "0.745547", "0.273885", "0.512497", "0.01", "0.9"]
    assert alike["0.01"] > 0.999 > alike["0.273885"] > alike["0.745547"] > alike["0.9"]
    assert abs(alike["1"]) < 0.5


def test_prepare_is_tried_at_the_longest(reference: Engine):
    lengths = [case.inputs["local"].shape[2] for case in parity.cases("prepare", reference, PROFILE)]
    assert max(lengths) == parity.frames(reference.config, PROFILE.max_seconds)


class Skewed:
    """The reference, but for an encoder that smears."""

    def __init__(self, engine: Engine, by: float) -> None:
        self.config, self.support, self.constants, self.close = (
            engine.config,
            engine.support,
            engine.constants,
            engine.close,
        )
        self._engine, self._by = engine, by

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        out = self._engine.run(graph, inputs)
        if graph == "encode":
            out["latents"] = out["latents"] + self._by * np.roll(out["latents"], 1, axis=2)
        return out


def test_the_codec_is_tried_there_and_back(reference: Engine):
    gate = Gate(reference, PROFILE)
    found = gate.compare("round trip", Skewed(reference, 0.0))
    assert found.cosine == 1 and found.sizes == ("batch 1, latents 64",) and found.more["spectral_db"] == 0
    gate.compare("decode", Skewed(reference, 1.0))  # on its own it is right
    with pytest.raises(ParityError, match="round trip at batch 1, latents 64: audio differs from the torch engine"):
        gate.compare("round trip", Skewed(reference, 1.0))
