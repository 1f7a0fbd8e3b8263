"""The torch engine's own settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sa3_engines import graphs, models
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.engine import Options
from sa3_engines.errors import InvalidRequest
from stable_audio_3.engine import BACKEND


def test_convolutions_keep_all_digits_and_the_users_setting_stays(golden: Path, monkeypatch: pytest.MonkeyPatch):
    """cuDNN's default is TF32, which made errors of 4e-4 out of 1e-6 on a GPU."""
    engine = BACKEND.open(models.from_folder(golden / "tiny-small"), Options(device="cpu", threads=1))
    seen: list[bool] = []
    decode = engine.networks.autoencoder.decode

    def watched(*args: object) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return decode(*args)

    monkeypatch.setattr(engine.networks.autoencoder, "decode", watched)
    latents = np.zeros((1, engine.config.autoencoder.latent_channels, 4), np.float32)
    for setting in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", setting)
        engine.run("decode", graphs.decode(engine.config, latents))
        assert torch.backends.cudnn.allow_tf32 is setting
    assert seen == [False, False]


LAYERS = [f"model.transformer.layers.{i}.self_attn.to_out" for i in (0, 1)]


def adapter(*strengths: float) -> list[ActiveAdapter]:
    """One that adds to two layers as many times as is said for each."""
    return [
        ActiveAdapter(adapter=ramp(f"of {module}", module), strength=strength)
        for module, strength in zip(LAYERS, strengths, strict=True)
    ]


def ramp(name: str, module: str) -> Adapter:
    tensors = {"lora_A": np.ones((1, 80), np.float32), "lora_B": np.ones((80, 1), np.float32)}
    return Adapter(name=name, kind="lora", rank=1, alpha=1.0, include=None, exclude=(), modules={module: tensors})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_refused_adapter_leaves_all_layers_as_they_were(golden: Path, precision: str):
    """Also one that is too much for the type of the weights alone."""
    engine = BACKEND.open(models.from_folder(golden / "tiny-small"), Options(precision=precision, threads=1))

    def state() -> list[torch.Tensor]:
        return [module.weight.clone() for _, module in engine._modules()]

    for before in ([], adapter(0.5, 0.25)):
        engine.set_adapters(before)
        held = state()
        with pytest.raises(InvalidRequest, match=f"{LAYERS[1]} that are too large"):
            engine.set_adapters(adapter(0.7, 1e5 if precision == "fp16" else 1e39))
        assert all(torch.equal(a, b) for a, b in zip(held, state(), strict=True))
    engine.set_adapters([])
    assert not engine._originals
    engine.close()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cpu:1", "no device 'cpu:1'; cpu has no numbers"),
        ("cpu:0", "cpu has no numbers"),
        ("cpu:", "cpu has no numbers"),
        ("mps:3", "no device 'mps:3'; mps has no numbers"),
        ("auto:1", "auto has no numbers"),
        ("cuda:x", "no device 'cuda:x'; a GPU is cuda, or one of several by its number"),
        ("cuda:", "a GPU is cuda"),
        ("cuda:-1", "a GPU is cuda"),
        ("cuda:1:2", "a GPU is cuda"),
        ("CPU", "no device 'CPU'; choose from cuda, mps, cpu"),
        ("", "no device ''"),
    ],
)
def test_devices_that_are_none(device: str, said: str):
    assert said in str(BACKEND.why_not(device))


def test_devices_that_are_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BACKEND, "devices", lambda: ["cuda", "cuda:0", "cuda:1", "mps", "cpu"], raising=True)
    for device in ("auto", "cpu", "mps", "cuda", "cuda:1"):
        assert BACKEND.why_not(device) is None
    assert BACKEND.why_not("cuda:2") == "device cuda:2 is not here; PyTorch sees cuda, cuda:0, cuda:1, mps, cpu"
