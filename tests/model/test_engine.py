"""The torch engine's own settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sa3_engines import graphs, models
from sa3_engines.engine import Options
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
