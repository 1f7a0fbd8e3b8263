"""Our T5Gemma encoder against the library's, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sa3_engines import graphs, models
from sa3_engines.engine import Options
from stable_audio_3.engine import BACKEND


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_it_computes_what_the_library_computes(golden: Path):
    from transformers import T5GemmaConfig, T5GemmaEncoderModel

    folder = golden / "tiny-small"
    text_folder = folder / "t5gemma-b-b-ul2"
    raw = json.loads((text_folder / "config.json").read_text())
    config = T5GemmaConfig(**{k: v for k, v in raw.items() if k not in ("architectures", "model_type")})
    config.is_encoder_decoder = False
    config._attn_implementation = "eager"
    library = T5GemmaEncoderModel(config).eval().float()
    engine = BACKEND.open(models.from_folder(folder), Options(threads=1))
    ours = engine.networks.text
    assert ours is not None
    weights = {f"encoder.{k}": v.float() for k, v in ours.state_dict().items()}
    missing = [k for k in library.load_state_dict(weights, strict=False).missing_keys if "rotary" not in k]
    assert not missing
    ids = np.random.default_rng(0).integers(1, 200, (3, 20))
    mask = (np.arange(20)[None] < np.array([20, 7, 1])[:, None]).astype(np.int64)
    with torch.inference_mode():
        expected = library(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    assert engine.config.text is not None
    got = engine.run("text", graphs.text(engine.config.text, ids, mask))["hidden"]
    real = mask.astype(bool)
    np.testing.assert_allclose(got[real], expected[real], atol=2e-5)
