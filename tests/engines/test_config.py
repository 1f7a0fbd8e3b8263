"""Reading configurations."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import config, models
from sa3_engines.errors import CheckpointError


@pytest.fixture
def raw(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "tiny-small" / "model_config.json").read_text())


def test_released_models_have_their_published_sizes():
    """Parameter counts of every part, as published."""
    torch = pytest.importorskip("torch")
    from stable_audio_3 import checkpoint

    known = {"small-music": (459_130_896, 108_244_721), "medium": (1_453_170_192, 852_127_457)}
    for name, (dit, autoencoder) in known.items():
        with torch.device("meta"):
            networks = checkpoint.build(models.released_config(name))

        def count(module: Any) -> int:
            return sum(t.numel() for t in module.state_dict().values())

        assert count(networks.dit) == dit
        assert count(networks.autoencoder) == autoencoder
        assert count(networks.text) == 281_580_288
        assert count(networks.conditioners) == 198_144


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("model", "pretransform", "config", "bottleneck", "type"), "vae", "'vae'; this toolkit knows softnorm"),
        (("model", "pretransform", "type"), "wavelet", "'wavelet'"),
        (("model", "diffusion", "type"), "unet", "'unet'; this toolkit knows dit"),
        (("model", "diffusion", "config", "norm_type"), "layer_norm", "rms_norm"),
        (("model", "diffusion", "diffusion_objective"), "v", "rf_denoiser, rectified_flow"),
        (("model", "conditioning", "configs", 0, "type"), "clap_text", "'clap_text'"),
        (("model", "pretransform", "config", "encoder", "type"), "oobleck", "'oobleck'"),
        (("model", "diffusion", "prepend_cond_ids"), ["prompt"], "prepend_cond_ids is set"),
        (("model", "diffusion", "config", "depth"), "many", "a number was expected"),
        (("model", "diffusion", "config", "num_heads"), 3, "does not divide"),
        (("model", "pretransform", "config", "encoder", "config", "strides"), [4, 4], "is supported"),
        (("model", "pretransform", "config", "downsampling_ratio"), 65, "downsampling_ratio is 65"),
        (("model", "diffusion", "config"), 7, "is not an object"),
        (("sample_rate",), 0, "sample_rate is 0"),
        (("model",), [], "model is not an object"),
        (("sample_size",), float("inf"), "sample_size is over 1e100, and no model has more"),
        (("sample_size",), float("nan"), "sample_size is nan, a number was expected"),
        (("model", "diffusion", "config", "depth"), 10**7, "config.depth is 1e.07, and no model has more than 1,000"),
        (("model", "diffusion", "config", "embed_dim"), 2**40, "config.embed_dim is 1.09951e.12, and no model has"),
        (("model", "diffusion", "config", "ff_kwargs"), {"mult": 1e300}, "ff_kwargs.mult is over 1e100"),
        (
            ("model", "diffusion", "config", "num_heads"),
            2e6,
            "num_heads is 2e.06, and no model has more than 1,048,576",
        ),
    ],
)
def test_what_it_does_not_know_is_an_error(raw: dict[str, Any], path: tuple[Any, ...], value: Any, says: str):
    changed = copy.deepcopy(raw)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CheckpointError, match=says):
        config.parse(changed)


def test_extra_keys_are_ignored(raw: dict[str, Any]):
    changed = copy.deepcopy(raw)
    changed["model"]["diffusion"]["config"]["checkpointing"] = True
    changed["training"] = {"demo": 1}
    assert config.parse(changed).dit == config.parse(raw).dit


@pytest.mark.parametrize("key", ["sample_rate", "model"])
def test_what_is_missing_is_named(raw: dict[str, Any], key: str):
    del raw[key]
    with pytest.raises(CheckpointError, match=key):
        config.parse(raw)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../text", "text/../../text", "/tmp/text", "text/", "a//b", "a\\b", "c:text", "a\0b", 5, None],
)
def test_the_text_encoders_folder_is_inside(raw: dict[str, Any], name: Any):
    """An export writes into it: with an empty name it wrote into the root of the file system."""
    raw["model"]["conditioning"]["configs"][0]["config"]["subfolder"] = name
    for read in (config.parse, config.text_folder):
        with pytest.raises(CheckpointError, match=r"config\.subfolder is .*; the name of a folder beside model_config"):
            read(raw)
    raw["model"]["conditioning"]["configs"][0]["config"]["subfolder"] = "encoders/t5"
    assert config.text_folder(raw) == "encoders/t5"


def test_whole_numbers_that_are_no_floats(raw: dict[str, Any]):
    raw["sample_rate"] = 10**400
    with pytest.raises(CheckpointError, match="sample_rate is over 1e100, and no model has more than 2,147,483,648"):
        config.parse(raw)
    raw["sample_rate"] = 44100
    raw["model"]["pretransform"]["config"]["encoder"]["config"]["strides"] = [10**400]
    with pytest.raises(CheckpointError, match="strides is over 1e100, and no model has more than 1,000"):
        config.parse(raw)
