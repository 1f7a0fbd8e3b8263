"""Where the autoencoder begins, it is a projection; and panning is a number that training leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sa3_training import architecture, clips, components, drums, measures, synth, tones
from sa3_training.autoencoding import Autoencoding, Options


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Autoencoding:
    """After a few steps."""
    folder: Path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "SHARD", 120)
        patch.setattr(components, "PATCHES", 600)
        clips.write(folder, [0])
        model = architecture.parsed()
        options = Options(steps=6, batch=4)
        made = Autoencoding(architecture.build(model, 1).autoencoder, model, clips.Crops(folder, 1), options)
        for index in range(4):
            made.step(index)
    return made


def heard(stage: Autoencoding, wave: np.ndarray, left: float, right: float) -> tuple[torch.Tensor, float]:
    """The latents that hold the panning, (places, latents), and how far left the decoded sound is, in dB."""
    audio = np.zeros((1, 2, clips.SAMPLES), np.float32)
    count = min(len(wave), clips.SAMPLES)
    audio[0, 0, :count], audio[0, 1, :count] = left * wave[:count], right * wave[:count]
    form = components.layout_of(stage.same)
    with torch.no_grad():
        latents = stage.same.encode(torch.from_numpy(audio), stage.rope)
        decoded = stage.same.decode(latents, stage.rope)[0].numpy()
    return latents[0, [form.latent(place)[-1] for place in range(form.stride)]], measures.pan_db(decoded)


SOUNDS = {
    "tone": tones.tone("saw", 57, clips.SAMPLES),
    "noise": synth.noise(np.random.default_rng(0), clips.SAMPLES, synth.band(5000, 12000)) / np.float32(4),
    "quiet": tones.tone("sine", 69, clips.SAMPLES) * np.float32(0.1),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_panning_has_a_latent_of_its_own(stage: Autoencoding, name: str):
    left, _ = heard(stage, SOUNDS[name], 0.4, 0.04)
    right, _ = heard(stage, SOUNDS[name], 0.04, 0.4)
    centre, _ = heard(stage, SOUNDS[name], 0.4, 0.4)
    assert float(left.median()) > 1 and float(right.median()) < -1
    assert float(centre.abs().max()) < 0.01
    torch.testing.assert_close(left, -right, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["tone", "quiet"])
def test_tones_come_back_from_where_they_were(stage: Autoencoding, name: str):
    assert heard(stage, SOUNDS[name], 0.4, 0.04)[1] > 9
    assert heard(stage, SOUNDS[name], 0.04, 0.4)[1] < -9
    assert abs(heard(stage, SOUNDS[name], 0.4, 0.4)[1]) < 1


def test_a_sharp_sound_keeps_its_side(stage: Autoencoding):
    kick = drums.drum("kick")
    assert heard(stage, kick, 0.7, 0.07)[1] > 6
    assert heard(stage, kick, 0.07, 0.7)[1] < -6


def test_what_is_pinned_does_not_move(stage: Autoencoding):
    before = [pin.value.clone() for pin in stage.pins]
    stage.step(4)
    assert stage.pins
    for pin, value in zip(stage.pins, before, strict=True):
        assert torch.equal(pin.parameter.detach()[pin.where], value)


def test_the_pinned_parts_do_not_dwarf_the_gradient(stage: Autoencoding):
    """They are steep on purpose; unless left out, the rest of the gradient is cut to next to nothing."""
    assert stage.step(5)["norm"] < 100
