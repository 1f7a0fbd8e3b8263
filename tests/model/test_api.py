"""The Python interface that existing scripts use, on a miniature checkpoint with real networks."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stable_audio_3
from sa3_engines import selection
from sa3_engines.errors import BackendUnavailable, CheckpointError, InvalidRequest, ModelNotFound
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request
from stable_audio_3 import AutoencoderModel, StableAudioModel

RATE = 1600  # of the miniature


@pytest.fixture(scope="module")
def opened(folder: Path) -> StableAudioModel:
    return StableAudioModel.from_pretrained(folder)


@pytest.fixture
def model(opened: StableAudioModel) -> Iterator[StableAudioModel]:
    """Without adapters at the start and the end."""
    yield opened
    opened.pipeline.adapters.clear()


@pytest.fixture(scope="module")
def autoencoder(folder: Path) -> AutoencoderModel:
    return AutoencoderModel.from_pretrained(folder)


def made(model: StableAudioModel, **changes: Any) -> Tensor:
    settings: dict[str, Any] = {"prompt": "warm drums", "duration": 2, "steps": 3, "seed": 7}
    return model.generate(**settings | changes)


def tone(seconds: float, rate: int = RATE, channels: int = 2) -> Tensor:
    t = torch.arange(int(seconds * rate)) / rate
    return torch.stack([0.3 * torch.sin(2 * torch.pi * (40 + 30 * c) * t) for c in range(channels)])


# The package


def test_the_import_is_light():
    code = (
        "import sys, stable_audio_3 as s; assert not {'torch', 'numpy'} & set(sys.modules); "
        "assert set(s.__all__) <= set(dir(s)); print(s.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


def test_names_are_exported():
    assert sorted(stable_audio_3.__all__) == ["AutoencoderModel", "StableAudioModel", "__version__"]
    for name in stable_audio_3.__all__:
        assert getattr(stable_audio_3, name)
    with pytest.raises(AttributeError, match="Unknown"):
        stable_audio_3.Unknown  # noqa: B018


# The calls that scripts make


def test_upstreams_defaults():
    defaults = {name: p.default for name, p in inspect.signature(StableAudioModel.generate).parameters.items()}
    expected = {
        "negative_prompt": None,
        "duration": 120,
        "steps": 8,
        "cfg_scale": 1.0,
        "batch_size": 1,
        "seed": -1,
        "init_audio": None,
        "init_noise_level": 1.0,
        "inpaint_audio": None,
        "inpaint_mask": None,
        "inpaint_mask_start_seconds": None,
        "inpaint_mask_end_seconds": None,
        "truncate_output_to_duration": True,
        "duration_padding_sec": 6.0,
        "apg_scale": 1.0,
        "dist_shift": None,
        "return_latents": False,
        "chunked_decode": None,
        "conditioning": None,
        "negative_conditioning": None,
        "sampler_type": None,
        "cfg_interval": (0.0, 1.0),
    }
    assert {name: defaults[name] for name in expected} == expected


def test_a_call_with_everything(model: StableAudioModel):
    audio = model.generate(
        prompt="warm drums",
        negative_prompt=None,
        duration=2,
        steps=2,
        cfg_scale=1.0,
        batch_size=1,
        seed=-1,
        init_audio=None,
        init_noise_level=1.0,
        inpaint_audio=None,
        inpaint_mask=None,
        inpaint_mask_start_seconds=None,
        inpaint_mask_end_seconds=None,
        sample_size=38400,
        truncate_output_to_duration=True,
        duration_padding_sec=6.0,
        apg_scale=1.0,
        dist_shift=None,
        return_latents=False,
        chunked_decode=None,
        conditioning=None,
        negative_conditioning=None,
        sampler_type=None,
        cfg_interval=(0.0, 1.0),
        scale_phi=0.0,
        rescale_cfg=True,
        cfg_norm_threshold=0.0,
        disable_tqdm=True,
    )
    assert audio.shape == (1, 2, 2 * RATE)
    assert audio.dtype == torch.float32
    assert audio.device.type == "cpu"
    assert 0 < audio.abs().max() <= 1
    assert not audio.requires_grad


def test_facts(model: StableAudioModel, folder: Path):
    assert model.model_config["sample_rate"] == model.model.sample_rate == model.sample_rate == RATE
    assert model.device == torch.device("cpu")
    facts = model.model
    assert (facts.io_channels, facts.audio_channels, facts.downsampling_ratio) == (32, 2, 64)
    assert (facts.sample_size, facts.diffusion_objective) == (38400, "rf_denoiser")
    assert f'"depth": {model.model_config["model"]["diffusion"]["config"]["depth"]}' in (
        folder / "model_config.json"
    ).read_text("utf-8")


def test_what_a_script_does_to_the_configuration_stays_its_own(model: StableAudioModel):
    config = model.model_config
    config["model"]["diffusion"]["config"]["depth"] = 99
    assert model.model_config["model"]["diffusion"]["config"]["depth"] != 99


def test_an_unknown_keyword_is_named(model: StableAudioModel):
    with pytest.raises(TypeError, match="cfg_strength"):
        made(model, cfg_strength=3)


def test_a_prompt_is_needed(model: StableAudioModel):
    with pytest.raises(InvalidRequest, match="prompt is None"):
        model.generate(duration=2)


def test_arrays_stand_for_numbers(model: StableAudioModel):
    plain = made(model, prompt=["warm", "dark"], duration=[2, 2])
    assert torch.equal(made(model, prompt=["warm", "dark"], duration=torch.tensor([2.0, 2.0])), plain)
    assert torch.equal(
        made(model, duration=np.float32(2), steps=np.int64(3), seed=np.int64(7), cfg_scale=torch.tensor(1.0)),
        made(model),
    )


# Length


def test_the_default_duration_gives_way_to_a_shorter_model(model: StableAudioModel):
    assert model.generate("pad", steps=1).shape[2] == 24 * RATE
    assert model.generate("pad", steps=1, sample_size=6 * RATE).shape[2] == 6 * RATE
    with pytest.raises(InvalidRequest, match="24 s"):
        model.generate("pad", steps=1, duration=120)


def test_truncation(model: StableAudioModel):
    assert made(model, truncate_output_to_duration=False).shape[2] == 200 * 64  # 2 + 6 s, in pairs of frames
    assert made(model, truncate_output_to_duration=False, duration_padding_sec=0).shape[2] == 50 * 64
    different = made(model, prompt=["warm", "dark"], duration=[1, 2])
    assert different.shape == (2, 2, 200 * 64)
    assert not different[0, :, (25 + 150) * 64 :].any()  # what only pads an item is silent


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cfg_interval": 0.5}, "cfg_interval is 0.5; two numbers"),
        ({"cfg_interval": None}, "cfg_interval is None; two numbers"),
        ({"sample_size": "x"}, "sample size 'x'"),
        ({"sample_size": 0}, "sample size 0"),
        ({"duration_padding_sec": -1}, "duration_padding_sec -1"),
        ({"scale_phi": 2}, "scale_phi 2"),
        ({"truncate_output_to_duration": "no"}, "truncate_output_to_duration 'no'"),
        ({"duration": []}, "duration is an empty list"),
        ({"callback": 5}, "callback is 5; a function"),
        ({"inpaint_audio": (RATE, tone(2)), "inpaint_mask": "x"}, "inpaint_mask must be .* not str"),
        ({"inpaint_audio": (RATE, tone(2)), "inpaint_mask": object()}, "inpaint_mask must be .* not object"),
        ({"conditioning": {"prompt": "warm"}}, "conditioning must be a list with a dict for each item, not dict"),
        ({"conditioning": "warm"}, "conditioning must be a list .* not str"),
        ({"conditioning": ["warm"]}, "conditioning must hold dicts, not str"),
        ({"conditioning": []}, "conditioning must be a list"),
        ({"prompt": None, "conditioning": [{"seconds_total": 2}]}, "an entry of conditioning lacks its prompt"),
        ({"negative_conditioning": [{"seconds_total": 2}]}, "an entry of negative_conditioning lacks its prompt"),
        ({"negative_conditioning": [{"bpm": 2}]}, "negative_conditioning has bpm"),
        ({"lora_configs": {"lora_index": 0}}, "lora_configs must be a list .* not dict"),
        ({"lora_configs": [5]}, "lora_configs must hold dicts, not int"),
        ({"lora_configs": [{"lora_index": 0, "interval": 0.5}]}, "interval of adapter 0 is 0.5; two numbers"),
        ({"lora_configs": [{"lora_index": 0, "interval": ("a", "b")}]}, "interval of adapter 0 is .*; two numbers"),
        ({"lora_configs": [{"lora_index": [0]}]}, "index of an adapter is"),
        ({"lora_configs": [{"lora_index": 0, "layer_filter": 5}]}, "skip_layers of adapter 0 is 5"),
    ],
)
def test_what_is_wrong_is_told_by_the_callers_name_for_it(model: StableAudioModel, changes: dict[str, Any], said: str):
    with pytest.raises(InvalidRequest, match=said) as caught:
        made(model, **changes)
    assert "\n" not in str(caught.value)


def test_numbers_of_torch_in_lists_are_numbers(model: StableAudioModel):
    plain = made(model, prompt=["warm", "dark"], duration=[1, 2], seed=[3, 4])
    assert torch.equal(
        made(model, prompt=["warm", "dark"], duration=[torch.tensor(1.0), torch.tensor(2)], seed=[np.int64(3), 4]),
        plain,
    )


def test_the_default_duration_is_in_whole_latents(model: StableAudioModel):
    assert model.generate("pad", steps=1, sample_size=2 * RATE + 17).shape[2] == 2 * RATE


# Randomness


def test_seeds(model: StableAudioModel):
    assert torch.equal(made(model), made(model))
    assert not torch.equal(made(model), made(model, seed=8))
    assert not torch.equal(made(model, seed=-1), made(model, seed=-1))


def test_an_item_of_a_batch_is_what_it_would_be_alone(model: StableAudioModel):
    prompts, seeds = ["warm drums", "a dark drone", "loud noise"], [3, 9, 27]
    batch = made(model, prompt=prompts, seed=seeds, cfg_scale=3.0)
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        assert torch.allclose(batch[index : index + 1], made(model, prompt=prompt, seed=seed, cfg_scale=3.0), atol=1e-3)


def test_the_pipeline_below_makes_the_same(model: StableAudioModel):
    pipeline: Pipeline = model.pipeline
    audio = pipeline.generate(Request(prompt="warm drums", seconds=2, steps=3, seed=7)).audio
    assert np.array_equal(made(model).numpy(), audio)


def test_batch_sizes(model: StableAudioModel):
    four = made(model, batch_size=4)
    assert four.shape[0] == 4
    assert not torch.equal(four[0], four[1])
    assert made(model, prompt=["warm", "dark"], batch_size=2).shape[0] == 2
    assert made(model, prompt=["warm", "dark"]).shape[0] == 2
    with pytest.raises(InvalidRequest, match="3 items"):
        made(model, prompt=["warm", "dark"], batch_size=3)


# Guidance, prompts, schedule, sampler


def test_guidance(model: StableAudioModel):
    plain, guided = made(model), made(model, cfg_scale=4.0)
    assert not torch.equal(plain, guided)
    assert not torch.equal(guided, made(model, cfg_scale=4.0, negative_prompt="noise"))
    assert torch.equal(plain, made(model, cfg_scale=4.0, cfg_interval=(2.0, 3.0)))
    for change in ({"apg_scale": 0.0}, {"scale_phi": 0.7}, {"cfg_norm_threshold": 1.0}):
        assert not torch.equal(guided, made(model, cfg_scale=4.0, **change)), change


def test_conditioning_takes_the_place_of_prompt_and_duration(model: StableAudioModel):
    conditioning = [{"prompt": "warm drums", "seconds_total": 2}]
    assert torch.equal(made(model), made(model, prompt=None, duration=9, conditioning=conditioning))
    assert torch.equal(made(model), made(model, prompt="dark", conditioning=[{"prompt": "warm drums"}]))
    negative = [{"prompt": "noise", "seconds_total": 2}]
    assert torch.equal(
        made(model, cfg_scale=3.0, negative_prompt="noise"),
        made(model, cfg_scale=3.0, conditioning=conditioning, negative_conditioning=negative),
    )
    two = [{"prompt": "warm", "seconds_total": torch.tensor(1)}, {"prompt": "dark", "seconds_total": 2}]
    assert torch.equal(
        made(model, prompt=["warm", "dark"], duration=[1, 2], negative_prompt="noise", cfg_scale=2.0),
        made(model, conditioning=two, negative_conditioning=[{"prompt": "noise"}], batch_size=2, cfg_scale=2.0),
    )


def test_conditioning_that_is_not_understood(model: StableAudioModel):
    with pytest.raises(InvalidRequest, match="3 values of prompt for 2 entries"):
        made(model, prompt=["a", "b", "c"], conditioning=[{"seconds_total": 1}] * 2)
    with pytest.raises(InvalidRequest, match="bpm"):
        made(model, conditioning=[{"prompt": "warm", "seconds_total": 2, "bpm": 120}])
    with pytest.raises(InvalidRequest, match="seconds_total"):
        made(model, cfg_scale=2.0, negative_conditioning=[{"prompt": "noise", "seconds_total": 3}])


def test_distribution_shifts(model: StableAudioModel):
    own = made(model)
    assert torch.equal(own, made(model, dist_shift="logsnr"))
    assert not torch.equal(own, made(model, dist_shift="none"))
    assert not torch.equal(own, made(model, dist_shift={"type": "flux", "alpha_min": 2.0, "alpha_max": 4.0}))
    with pytest.raises(InvalidRequest, match="logsnr"):
        made(model, dist_shift="sideways")
    with pytest.raises(InvalidRequest, match="slope"):
        made(model, dist_shift={"type": "logsnr", "slope": 1})


def test_samplers(model: StableAudioModel):
    sounds = [made(model, sampler_type=name) for name in ("pingpong", "euler", "rk4", "dpmpp")]
    assert all(not torch.equal(a, b) for i, a in enumerate(sounds) for b in sounds[:i])
    assert torch.equal(made(model), sounds[0])
    assert torch.equal(made(model, sampler_type="ping_pong"), sounds[0])
    for name in ("heun", "dpmpp_2m_sde"):
        with pytest.raises(InvalidRequest, match="pingpong, euler, rk4, dpmpp"):
            made(model, sampler_type=name)


def test_a_long_prompt_is_cut_with_a_warning(model: StableAudioModel):
    words = " ".join(["warm", "dark"] * 12)
    with pytest.warns(UserWarning, match="34 tokens long and the model reads 24") as caught:
        cut = made(model, prompt=words + " loud" * 10)
    assert caught[0].filename == __file__
    assert torch.equal(cut, made(model, prompt=words))  # 24 words over 24 bytes long: no warning


def test_callback(model: StableAudioModel):
    seen: list[dict[str, Any]] = []
    made(model, prompt=["warm", "dark"], callback=seen.append)
    assert [at["i"] for at in seen] == [0, 1, 2]
    levels = torch.stack([at["t"] for at in seen])
    assert levels.shape == (3, 2)
    assert (levels[0] == 1).all()
    assert (levels.diff(dim=0) < 0).all()
    assert all(at["x"].shape == (2, 32, 200) for at in seen)


# Given sound


def test_init_audio(model: StableAudioModel):
    sound = tone(2)
    init = {"init_audio": (RATE, sound), "init_noise_level": 0.5}
    first = made(model, **init)
    assert not torch.equal(first, made(model))
    assert torch.equal(first, made(model, init_audio=(sound, RATE), init_noise_level=0.5))
    assert torch.equal(first, made(model, init_audio=(RATE, sound.numpy().T), init_noise_level=0.5))
    assert not torch.equal(first, made(model, init_audio=(RATE, sound), init_noise_level=0.9))
    assert made(model, batch_size=2, **init).shape[0] == 2
    whole = (sound * 32767).round().short()
    near = made(model, init_audio=(whole, RATE), init_noise_level=0.5)
    assert torch.allclose(near, first, atol=0.02)
    other = made(model, init_audio=(tone(2, 2000), 2000), init_noise_level=0.5)
    assert other.shape == first.shape
    with pytest.raises(InvalidRequest, match="pair"):
        made(model, init_audio=sound)


def test_inpainting_regions_and_masks_agree(model: StableAudioModel):
    sound = tone(4)
    one = made(
        model,
        duration=4,
        inpaint_audio=(RATE, sound),
        inpaint_mask_start_seconds=1.0,
        inpaint_mask_end_seconds=2.5,
    )
    assert torch.equal(
        one,
        made(
            model,
            duration=4,
            inpaint_audio=(sound, RATE),
            inpaint_mask_start_seconds=[1.0],
            inpaint_mask_end_seconds=torch.tensor([2.5]),
        ),
    )
    mask = torch.ones(1, 4 * RATE)
    mask[:, RATE : int(2.5 * RATE)] = 0
    for given in (mask, mask.bool(), mask[0].numpy()):
        assert torch.equal(one, made(model, duration=4, inpaint_audio=(sound, RATE), inpaint_mask=given))
    two = made(
        model,
        duration=4,
        inpaint_audio=(sound, RATE),
        inpaint_mask_start_seconds=[0.5, 3],
        inpaint_mask_end_seconds=[1, 3.5],
    )
    assert not torch.equal(one, two)


def test_a_batch_is_inpainted(model: StableAudioModel):
    given = {
        "duration": 4,
        "inpaint_audio": (RATE, tone(4)),
        "inpaint_mask_start_seconds": 1,
        "inpaint_mask_end_seconds": 3,
    }
    batch = made(model, batch_size=2, seed=[4, 5], **given)
    assert batch.shape == (2, 2, 4 * RATE)
    for index, seed in enumerate((4, 5)):
        assert torch.allclose(batch[index : index + 1], made(model, seed=seed, **given), atol=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inpaint_mask_start_seconds": 1}, "pairs"),
        ({"inpaint_mask_end_seconds": [1]}, "pairs"),
        ({"inpaint_mask_start_seconds": [1, 2], "inpaint_mask_end_seconds": [3]}, "pairs"),
        ({"inpaint_mask_start_seconds": 2, "inpaint_mask_end_seconds": 1}, "reversed"),
        ({"inpaint_mask_start_seconds": 7, "inpaint_mask_end_seconds": 8}, "outside"),
        ({"inpaint_mask": torch.ones(2, 100)}, "shape"),
        ({"inpaint_mask": torch.tensor(1.0)}, "shape"),
        ({}, "inpaint_mask_start_seconds"),
    ],
)
def test_inpainting_that_cannot_be(model: StableAudioModel, given: dict[str, Any], said: str):
    with pytest.raises(InvalidRequest, match=said):
        made(model, inpaint_audio=(RATE, tone(2)), **given)


def test_regions_without_audio(model: StableAudioModel):
    with pytest.raises(InvalidRequest, match="inpaint_audio"):
        made(model, inpaint_mask_start_seconds=1, inpaint_mask_end_seconds=2)


# Latents


def test_latents_decode_to_the_audio(model: StableAudioModel, autoencoder: AutoencoderModel):
    latents = made(model, return_latents=True)
    assert latents.shape == (1, 32, 200)
    assert latents.dtype == torch.float32
    audio = autoencoder.decode(latents, chunked=True)[..., : 2 * RATE].clamp(-1, 1)
    assert torch.allclose(audio, made(model), atol=1e-4)
    whole = autoencoder.decode(latents)[..., : 2 * RATE].clamp(-1, 1)
    assert torch.allclose(whole, made(model, chunked_decode=False), atol=1e-4)
    assert torch.equal(made(model, chunked_decode=True), made(model))


# Adapters


@pytest.fixture(scope="module")
def loras(folder: Path) -> Path:
    return folder / "loras"


def test_adapters(model: StableAudioModel, loras: Path):
    base = made(model)
    model.load_lora(loras / "lora.safetensors")
    adapted = made(model)
    assert not torch.equal(base, adapted)
    model.set_lora_strength(0.0)
    assert torch.equal(base, made(model))
    model.set_lora_strength(1.0, lora_index=0)
    assert torch.equal(adapted, made(model))
    model.set_lora_strength(0.5)
    halved = made(model)
    model.pipeline.adapters.clear()
    assert torch.equal(base, made(model))
    model.load_lora(str(loras / "lora.safetensors"), weight=0.5)
    assert torch.equal(halved, made(model))


def test_adapter_targets(model: StableAudioModel, loras: Path):
    base = made(model)
    model.load_lora(loras / "lora.safetensors")
    model.set_lora_strength(0.0, target="dit")
    conditioner_only = made(model)
    assert not torch.equal(base, conditioner_only)
    model.set_lora_strength(0.0, target="conditioner")
    assert torch.equal(base, made(model))
    with pytest.raises(InvalidRequest, match="'dit', 'conditioner'"):
        model.set_lora_strength(1.0, target="decoder")
    with pytest.raises(InvalidRequest, match="no adapter 4"):
        model.set_lora_strength(1.0, lora_index=4)


def test_stacked_adapters(model: StableAudioModel, loras: Path):
    paths = [loras / "lora.safetensors", loras / "dora-rows.safetensors"]
    model.load_lora(paths)
    both = made(model)
    model.pipeline.adapters.clear()
    for path in paths:
        model.load_lora(path)
    assert torch.equal(both, made(model))
    model.set_lora_strength(0.0, lora_index=1)
    first = made(model)
    assert not torch.equal(both, first)
    model.pipeline.adapters.clear()
    model.load_lora(paths[0])
    assert torch.equal(first, made(model))
    model.pipeline.adapters.clear()
    model.load_lora(paths[::-1])
    assert not torch.equal(both, made(model))  # dora renormalises what comes before it


def test_adapters_by_noise_level_and_layer(model: StableAudioModel, loras: Path):
    model.load_lora(loras / "lora.safetensors")
    model.set_lora_strength(0.0, target="dit")
    without = made(model)
    model.set_lora_strength(1.0, target="dit")
    always = made(model)
    assert torch.equal(always, made(model, lora_configs=[{"lora_index": 0}]))
    assert torch.equal(without, made(model, lora_configs=[{"lora_index": 0, "interval": (2.0, 3.0)}]))
    late = made(model, lora_configs=[{"lora_index": 0, "interval": (0.0, 0.99)}])
    assert not torch.equal(late, always)
    assert not torch.equal(late, without)
    filtered = made(model, lora_configs=[{"lora_index": 0, "layer_filter": "layers.[0-1],to_cond_embed"}])
    assert not torch.equal(filtered, always)
    listed = made(model, lora_configs=[{"lora_index": 0, "layer_filter": ["layers.[0-1]", "to_cond_embed"]}])
    assert torch.equal(filtered, listed)
    assert torch.equal(always, made(model))  # settings of one generation end with it


@pytest.mark.parametrize(
    ("config", "said"),
    [({"lora_index": 3}, "no adapter 3"), ({"interval": (0, 1)}, "lora_index"), ({"lora_index": 0, "x": 1}, "x;")],
)
def test_adapter_settings_that_cannot_be(model: StableAudioModel, loras: Path, config: dict[str, Any], said: str):
    model.load_lora(loras / "lora.safetensors")
    with pytest.raises(InvalidRequest, match=said):
        made(model, lora_configs=[config])


def test_adapters_that_cannot_be_loaded(model: StableAudioModel, loras: Path, tmp_path: Path):
    base = made(model)
    pickled = tmp_path / "old.ckpt"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="can run any code"):
        model.load_lora([loras / "lora.safetensors", pickled])
    assert not model.pipeline.adapters.loaded  # all or none
    assert torch.equal(base, made(model))
    with pytest.raises(ModelNotFound, match="nowhere"):
        model.load_lora(tmp_path / "nowhere.safetensors")


# Opening


def test_half_precision_is_for_cuda_only(model: StableAudioModel, folder: Path):
    full = StableAudioModel.from_pretrained(str(folder), device="cpu", model_half=False)
    assert full.pipeline.engine.support.precision == model.pipeline.engine.support.precision == "fp32"
    assert torch.equal(made(full), made(model))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here(folder: Path):
    for device in ("cuda", torch.device("cuda", 1)):
        with pytest.raises(BackendUnavailable, match=r"device cuda.* is not here; PyTorch sees cpu"):
            StableAudioModel.from_pretrained(folder, device=device)
    with pytest.raises(BackendUnavailable, match="choose from cuda, mps, cpu"):
        AutoencoderModel.from_pretrained(folder, device="abacus")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_cuda_the_sound_stays_there(folder: Path):
    model = StableAudioModel.from_pretrained(folder)
    assert model.device.type == "cuda"
    assert model.pipeline.engine.support.precision == "fp16"
    audio = made(model, init_audio=(RATE, tone(2).cuda()), init_noise_level=0.8)
    assert audio.device.type == "cuda"
    assert audio.dtype == torch.float32
    autoencoder = AutoencoderModel.from_pretrained(folder)
    latents = autoencoder.encode(audio, RATE)
    assert latents.device.type == autoencoder.decode(latents).device.type == "cuda"
    on_cpu = made(StableAudioModel.from_pretrained(folder, device="cpu"), sampler_type="euler")
    full = StableAudioModel.from_pretrained(folder, model_half=False)
    assert torch.allclose(made(full, sampler_type="euler").cpu(), on_cpu, atol=1e-2)


def test_an_autoencoder_makes_no_sound_from_a_prompt(autoencoder: AutoencoderModel):
    assert autoencoder.pipeline.engine.support.graphs == {"encode", "decode"}
    with pytest.raises(InvalidRequest, match="transformer"):
        autoencoder.pipeline.generate(Request(prompt="warm"))


def test_nano_by_name():
    made = [
        StableAudioModel.from_pretrained("nano", backend=b).generate("pad", steps=2, seed=1) for b in ("torch", "auto")
    ]
    assert made[0].shape == made[1].shape
    assert made[0].shape[2] == 9 * 44100  # as long as it learned to
    assert torch.allclose(made[0], made[1], atol=1e-3)


# The autoencoder alone


def test_encoding_takes_every_layout(autoencoder: AutoencoderModel):
    sound = tone(2)
    one = autoencoder.encode(sound, RATE)
    assert one.shape == (1, 32, 50)
    assert one.dtype == torch.float32
    for same in (sound[None], [sound], sound.numpy(), sound.double(), (sound * 1.0).numpy()[None]):
        assert torch.allclose(autoencoder.encode(same, RATE), one, atol=1e-5)
    mono = autoencoder.encode(sound[:1], RATE)
    assert torch.equal(autoencoder.encode(sound[0], RATE), mono)
    assert torch.equal(autoencoder.encode(sound[:1].repeat(2, 1), RATE), mono)


def test_encoding_a_batch(autoencoder: AutoencoderModel):
    long, short = tone(2), tone(1.01)
    batch = autoencoder.encode([long, short], RATE)
    assert batch.shape == (2, 32, 50)
    padded = torch.nn.functional.pad(short, (0, long.shape[1] - short.shape[1]))
    assert torch.equal(batch, autoencoder.encode(torch.stack([long, padded]), RATE))
    assert torch.equal(batch[1:], autoencoder.encode(padded, RATE))
    odd = autoencoder.encode(tone(1.01), RATE)
    assert odd.shape[2] == 26  # 25.25 frames, in whole ones


def test_encoding_other_rates(autoencoder: AutoencoderModel):
    assert autoencoder.encode(tone(2, 3200), 3200).shape == (1, 32, 50)
    near = autoencoder.encode(tone(2, 3200), 3200) - autoencoder.encode(tone(2), RATE)
    assert near.abs().mean() < 0.1


def test_chunks(autoencoder: AutoencoderModel):
    sound = tone(24)  # 600 frames
    whole = autoencoder.encode(sound, RATE)
    chunked = autoencoder.encode(sound, RATE, chunked=True)
    assert chunked.shape == whole.shape == (1, 32, 600)
    assert torch.allclose(chunked[:, :, :100], whole[:, :, :100], atol=1e-4)
    small = autoencoder.encode(sound, RATE, chunked=True, chunk_size=64, overlap=16)
    assert torch.allclose(small[:, :, :50], whole[:, :, :50], atol=1e-4)
    audio = autoencoder.decode(whole)
    assert audio.shape == (1, 2, 24 * RATE)
    assert torch.allclose(autoencoder.decode(whole, chunked=True)[..., :6000], audio[..., :6000], atol=1e-4)
    with pytest.raises(InvalidRequest, match="overlap"):
        autoencoder.decode(whole, chunked=True, chunk_size=32, overlap=32)


def test_decoding(autoencoder: AutoencoderModel):
    latents = autoencoder.encode(tone(1.92), RATE)
    audio = autoencoder.decode(latents)
    assert audio.shape == (1, 2, 48 * 64)
    assert torch.equal(autoencoder.decode(latents[0].numpy()), audio)  # as saved: (channels, frames)
    assert torch.allclose(autoencoder.decode(torch.cat([latents, latents])), audio, atol=1e-5)
    assert (autoencoder.sample_rate, autoencoder.device) == (RATE, torch.device("cpu"))
    assert autoencoder.model_config["sample_rate"] == RATE


@pytest.mark.parametrize(
    ("audio", "rate"), [([], RATE), (torch.zeros(2, 0), RATE), (torch.zeros(1, 1, 2, 9), RATE), (tone(1), 0)]
)
def test_what_cannot_be_encoded(autoencoder: AutoencoderModel, audio: Any, rate: int):
    with pytest.raises(InvalidRequest):
        autoencoder.encode(audio, rate)


def test_what_is_no_audio_and_no_latents(autoencoder: AutoencoderModel):
    for given in ("sound.wav", None, object()):
        with pytest.raises(InvalidRequest, match=f"audio must be .* not {type(given).__name__}"):
            autoencoder.encode(given, RATE)
        with pytest.raises(InvalidRequest, match=f"latents must be .* not {type(given).__name__}"):
            autoencoder.decode(given)
    for rate in (None, "44100", 1600.0, True):
        with pytest.raises(InvalidRequest, match=r"sr is .*; the rate of the audio was expected"):
            autoencoder.encode(tone(1), rate)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="two whole numbers"):
        autoencoder.encode(tone(1), RATE, chunked=True, chunk_size="x")  # pyright: ignore[reportArgumentType]


def test_a_bundle_that_is_passed_over_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch):
    open_engine = selection.open_engine

    def passing(*args: Any, **settings: Any) -> Any:
        engine, choice = open_engine(*args, **settings)
        return engine, replace(choice, passed_over=("onnx: it was exported from other weights",))

    monkeypatch.setattr(selection, "open_engine", passing)
    for opened_as in (StableAudioModel, AutoencoderModel):
        with pytest.warns(UserWarning, match="a bundle is passed over: onnx: it was exported") as caught:
            opened_as.from_pretrained(folder)
        assert caught[0].filename == __file__


def test_what_is_no_path(model: StableAudioModel):
    for opened_as in (StableAudioModel, AutoencoderModel):
        with pytest.raises(InvalidRequest, match="the model is 5; a"):
            opened_as.from_pretrained(5)  # pyright: ignore[reportArgumentType]
    for given in (None, 5, [5]):
        with pytest.raises(InvalidRequest, match=r"an adapter is .*; a path was expected"):
            model.load_lora(given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("latents", [torch.zeros(1, 31, 4), torch.zeros(32), torch.full((1, 32, 4), float("nan"))])
def test_what_cannot_be_decoded(autoencoder: AutoencoderModel, latents: Tensor):
    with pytest.raises(InvalidRequest):
        autoencoder.decode(latents)
