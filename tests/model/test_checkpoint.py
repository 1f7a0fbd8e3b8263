"""Checkpoints that are whole, published otherwise, damaged, or of something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa3_engines import config as configs
from sa3_engines import models
from sa3_engines.engine import Options
from sa3_engines.errors import BackendUnavailable, CheckpointError, InvalidRequest, ModelNotFound, Sa3Error
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request
from sa3_runtime.tokens import tokenizer_for
from stable_audio_3 import AutoencoderModel, StableAudioModel, checkpoint
from stable_audio_3.engine import BACKEND
from stable_audio_3.random_weights import random_tensor

Copy = Callable[..., Path]
TEXT = "t5gemma-b-b-ul2"
ENCODER = "pretransform.model.encoder.layers.0.layers.0"
WEIGHT = "model.model.transformer.layers.0.self_attn.to_qkv.weight"


def load(folder: Path) -> checkpoint.Networks:
    return checkpoint.load(models.from_folder(folder))


def with_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def with_config(path: Path, keys: tuple[str | int, ...], value: object) -> None:
    config: Any = json.loads(path.read_text("utf-8"))
    block = config
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = value
    path.write_text(json.dumps(config), "utf-8")


def sound(folder: Path) -> torch.Tensor:
    model = StableAudioModel.from_pretrained(folder)
    return model.generate("warm drums", duration=1, steps=2, seed=1, sampler_type="euler")


# Files


def test_a_whole_checkpoint(folder: Path):
    networks = load(folder)
    for _, part in networks.parts():
        assert not part.training
        for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
            assert not tensor.is_meta, name
            assert not tensor.requires_grad, name
            assert torch.isfinite(tensor).all(), name
    empty = networks.autoencoder.bottleneck.noise_scaling_factor
    assert empty.shape == (1, 0, 1)  # accepted, as published


def test_no_config(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"model_config\.json"):
        models.from_folder(tmp_path)


def test_no_weights(copied: Copy):
    folder = copied()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(folder)
    with pytest.raises(BackendUnavailable, match=r"model\.safetensors"):
        StableAudioModel.from_pretrained(folder)


def test_no_text_encoder(copied: Copy):
    folder = copied()
    (folder / TEXT / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"{TEXT}/model\.safetensors is missing"):
        load(folder)
    (folder / TEXT / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"folder {TEXT}/ .* is missing"):
        models.from_folder(folder)


def test_no_tokenizer(copied: Copy):
    folder = copied()
    (folder / TEXT / "tokenizer.json").unlink()
    with pytest.raises(InvalidRequest, match=r"tokenizer\.json"):
        sound(folder)
    (folder / TEXT / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        sound(folder)


@pytest.mark.parametrize("part", ["", f"{TEXT}/"])
@pytest.mark.parametrize("size", [0, 5, 8, 1000, -1])
def test_a_truncated_file(copied: Copy, part: str, size: int):
    path = copied() / f"{part}model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        load(path.parents[1] if part else path.parent)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"PK\3\4" + bytes(100)])
def test_a_file_of_something_else(copied: Copy, content: bytes):
    folder = copied()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


# Tensors


def test_every_misfit_is_named_in_one_error(copied: Copy):
    folder = copied()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["conditioner.conditioners.prompt.padding_embedding"]
        tensors[WEIGHT] = tensors[WEIGHT][:-1].clone()
        tensors["model.model.surprise"] = torch.zeros(3)
        tensors["model.model.preprocess_conv.weight"] = torch.zeros(32, 32, 1, dtype=torch.int8)

    with_tensors(folder / "model.safetensors", change)
    with_tensors(folder / TEXT / "model.safetensors", lambda tensors: tensors.pop("model.encoder.norm.weight"))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    said = str(caught.value)
    assert "1 missing: conditioner.conditioners.prompt.padding_embedding" in said
    assert f"1 misshapen: {WEIGHT} [239, 80], needs [240, 80]" in said
    assert "1 not of this model: model.model.surprise" in said
    assert "1 quantised: model.model.preprocess_conv.weight I8" in said
    assert f"{TEXT}/model.safetensors: 1 missing: model.encoder.norm.weight" in said


def test_weights_of_another_model(copied: Copy, golden: Path):
    folder = copied()
    shutil.copy(golden / "tiny-medium" / "model.safetensors", folder)
    with pytest.raises(CheckpointError, match=r"misshapen: .* and \d+ more"):
        load(folder)


def test_other_rotary_frequencies(copied: Copy):
    folder = copied()
    key = "model.model.transformer.rotary_pos_emb.inv_freq"
    with_tensors(folder / "model.safetensors", lambda tensors: tensors[key].mul_(0.5))
    with pytest.raises(CheckpointError, match=r"inv_freq holds other rotary frequencies"):
        StableAudioModel.from_pretrained(folder)


def test_a_checkpoint_saved_again_in_bf16(copied: Copy, folder: Path):
    again = copied()

    def half(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({key: tensor.bfloat16() for key, tensor in tensors.items()})

    with_tensors(again / "model.safetensors", half)
    networks = load(again)
    assert {tensor.dtype for tensor in networks.autoencoder.state_dict().values()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(sound(again).flatten(), sound(folder).flatten(), dim=0) > 0.9


def test_the_embedding_table_keeps_its_dtype(folder: Path):
    networks = load(folder)
    assert networks.text is not None
    assert networks.text.embed_tokens.weight.dtype == torch.bfloat16
    assert networks.text.norm.weight.dtype == torch.float32


# Layouts


def test_the_text_encoder_beside_the_variants(copied: Copy, folder: Path, monkeypatch: pytest.MonkeyPatch):
    mirror = copied("mirror")
    variant = mirror / "small-music"
    variant.mkdir()
    for name in ("model_config.json", "model.safetensors"):
        (mirror / name).rename(variant / name)
    assert models.from_folder(variant).tokenizer == mirror / TEXT / "tokenizer.json"
    assert torch.equal(sound(variant), sound(folder))
    monkeypatch.chdir(variant)
    assert models.locate(".").name == "small-music"


def test_links_to_the_files(folder: Path, tmp_path: Path):
    """As the hub client lays its cache out."""
    for path in folder.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(folder)).symlink_to(path)
    assert torch.equal(sound(tmp_path), sound(folder))


@pytest.fixture
def standalone(folder: Path, tmp_path: Path) -> Path:
    """The miniature's autoencoder as SAME is published: its own configuration, keys without a prefix."""
    out = tmp_path / "same"
    out.mkdir()
    whole = json.loads((folder / "model_config.json").read_text("utf-8"))
    inner = whole["model"]["pretransform"]["config"]
    inner["encoder"]["type"] = inner["decoder"]["type"] = "same"
    config = {"model_type": "autoencoder", "sample_rate": whole["sample_rate"], "audio_channels": 2, "model": inner}
    (out / "model_config.json").write_text(json.dumps(config))
    prefix = "pretransform.model."
    tensors = load_file(folder / "model.safetensors")
    save_file({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, out / "model.safetensors")
    return out


def test_a_standalone_autoencoder(standalone: Path, folder: Path):
    ours, whole = (AutoencoderModel.from_pretrained(path) for path in (standalone, folder))
    given = torch.rand(2, 2, 6400) - 0.5
    latents = ours.encode(given, 1600)
    assert torch.equal(latents, whole.encode(given, 1600))
    assert torch.equal(ours.decode(latents), whole.decode(latents))
    with pytest.raises(InvalidRequest, match="transformer"):
        StableAudioModel.from_pretrained(standalone).generate("warm", duration=1)


def test_a_standalone_autoencoder_that_does_not_fit(standalone: Path):
    with_tensors(standalone / "model.safetensors", lambda tensors: tensors.update(surprise=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="1 not of this model: surprise"):
        AutoencoderModel.from_pretrained(standalone)


# Configurations


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"model": []}', "[" * 100_000, "\ufeff{}"])
def test_json_that_is_no_configuration(copied: Copy, text: str):
    folder = copied()
    (folder / "model_config.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointError):
        models.from_folder(folder)


def test_a_configuration_that_is_no_text(copied: Copy):
    folder = copied()
    (folder / "model_config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not JSON"):
        models.from_folder(folder)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("model_type",), "lm", "model_type is 'lm'"),
        (("sample_rate",), 0, "sample_rate is 0"),
        (("model", "conditioning", "configs", 0, "type"), "clap", "'prompt' of type 'clap'"),
        (("model", "conditioning", "configs", 1, "id"), "bpm", "'bpm'"),
        (("model", "diffusion", "type"), "unet", "model.diffusion.type is 'unet'"),
        (("model", "diffusion", "diffusion_objective"), "v", "diffusion_objective is 'v'"),
        (("model", "diffusion", "cross_attention_cond_ids"), ["prompt"], "cross_attention_cond_ids"),
        (("model", "diffusion", "config", "global_cond_type"), "prepend", "global_cond_type is 'prepend'"),
        (("model", "diffusion", "config", "attn_kwargs", "qk_norm"), "ln", "qk_norm is 'ln'"),
        (("model", "diffusion", "config", "num_heads"), 3, "embed_dim 80 does not divide into 3 heads"),
        (("model", "pretransform", "type"), "wavelet", "model.pretransform.type is 'wavelet'"),
        (("model", "pretransform", "scale"), 2.0, "scale is not 1"),
        (("model", "pretransform", "config", "encoder", "type"), "oobleck", "encoder.type is 'oobleck'"),
        (("model", "pretransform", "config", "bottleneck", "type"), "vae", "bottleneck.type is 'vae'"),
        (("model", "pretransform", "config", "downsampling_ratio"), 2048, "downsampling_ratio is 2048"),
        (("model", "pretransform", "config", "decoder", "config", "strides"), [2, 2], "one resampling block"),
        (("model", "pretransform", "config", "decoder", "config", "chunk_size"), 6, "chunk_size 6"),
    ],
)
def test_a_block_of_another_kind_is_named(copied: Copy, keys: tuple[str | int, ...], value: object, said: str):
    folder = copied()
    with_config(folder / "model_config.json", keys, value)
    with pytest.raises(CheckpointError) as caught:
        models.from_folder(folder)
    assert said in str(caught.value)
    assert "model_config.json" in str(caught.value)


def test_keys_without_a_use_are_ignored(copied: Copy, folder: Path):
    other = copied()
    with_config(other / "model_config.json", ("training",), {"learning_rate": 1})
    with_config(other / "model_config.json", ("model", "pretransform", "config", "encoder", "config", "extra"), 3)
    assert replace(models.from_folder(other).config, raw={}) == replace(models.from_folder(folder).config, raw={})


def leaves(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, child in children for path in leaves(child, (*at, key)))]


@pytest.mark.parametrize("model", ["tiny-small", "tiny-medium"])
@pytest.mark.parametrize("file", ["model_config.json", f"{TEXT}/config.json"])
def test_any_odd_value_is_ignored_or_refused_as_such(golden: Path, model: str, file: str):
    """Whatever stands anywhere in a configuration: never another kind of error, never networks that cannot be built."""
    whole = {name: (golden / model / name).read_text("utf-8") for name in ("model_config.json", f"{TEXT}/config.json")}
    refused = 0
    for path in leaves(json.loads(whole[file])):
        for odd in (None, "x", -1, 0, 1.5, [], {}, True, [0], ["a"], [3, 3], float("inf"), float("nan")):
            parsed = {name: json.loads(text) for name, text in whole.items()}
            if path:
                block: Any = parsed[file]
                for key in path[:-1]:
                    block = block[key]
                block[path[-1]] = odd
            else:
                parsed[file] = odd
            try:
                config = configs.parse(parsed["model_config.json"], parsed[f"{TEXT}/config.json"])
            except CheckpointError:
                refused += 1
                continue
            assert config.ratio > 0
            assert config.longest_seconds >= 0
    assert refused > 100


# Random weights


def test_random_tensors_depend_on_name_shape_and_seed_alone():
    like = torch.empty(8, 5, device="meta")
    first = random_tensor("model.model.a.weight", like, 3)
    random_tensor("model.model.b.weight", like, 3)
    assert torch.equal(first, random_tensor("model.model.a.weight", like, 3))
    assert not torch.equal(first, random_tensor("model.model.a.weight", like, 4))
    assert not torch.equal(first, random_tensor("model.model.c.weight", like, 3))
    assert random_tensor("x.noise_scaling_factor", torch.empty(1, 0, 1, device="meta"), 0).shape == (1, 0, 1)


@pytest.mark.parametrize("name", ["tiny-small", "tiny-medium"])
def test_random_weights_of_a_whole_model(golden: Path, name: str):
    source = models.Source(name=f"random:{name}", config=models.from_folder(golden / name).config, seed=5)
    first, again = checkpoint.load(source), checkpoint.load(source)
    other = checkpoint.load(replace(source, seed=6))
    for (prefix, a), (_, b), (_, c) in zip(first.parts(), again.parts(), other.parts(), strict=True):
        for key, tensor in a.state_dict().items():
            assert torch.isfinite(tensor).all(), prefix + key
            assert torch.equal(tensor, b.state_dict()[key]), prefix + key
            assert key.endswith("inv_freq") or not tensor.numel() or not torch.equal(tensor, c.state_dict()[key])
    autoencoder = checkpoint.load(source.autoencoder_only()).autoencoder
    assert all(torch.equal(v, autoencoder.state_dict()[k]) for k, v in first.autoencoder.state_dict().items())


def test_a_random_model_makes_sound(golden: Path):
    """It brings no tokenizer; a stand-in takes its place. The sound is neither silent nor clipped throughout."""
    source = models.Source(name="random:tiny", config=models.from_folder(golden / "tiny-medium").config, seed=1)
    with Pipeline(BACKEND.open(source, Options(device="cpu")), source, tokenizer_for(source)) as pipeline:
        audio = pipeline.generate(Request(prompt="warm drums, slow", seconds=2, steps=2, seed=1)).audio
    assert np.isfinite(audio).all()
    assert 0.001 < np.abs(audio).mean() < 0.9


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("small-musik", "did you mean small-music?"),
        ("nanoo", "did you mean nano?"),
        ("same-xl", "did you mean same-l?"),
        ("zzz", "'zzz'. Known: nano, small-music"),
        ("", "no model|model_config.json"),
        ("./nowhere/at-all", "no model './nowhere/at-all'"),
        ("/nowhere", "no model '/nowhere'"),
        ("large", "no model 'large'"),
    ],
)
def test_unknown_names(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        models.locate(name)
    assert any(part in str(caught.value) for part in said.split("|"))


def test_a_file_is_not_a_model(folder: Path):
    with pytest.raises(ModelNotFound, match="is a file; a model is the folder"):
        models.locate(str(folder / "model.safetensors"))


@pytest.mark.parametrize("name", ["random:", "random:large", "random:small:x", "random:small:-1", "random:small:1:2"])
def test_random_names_that_cannot_be(name: str):
    with pytest.raises(Sa3Error):
        models.locate(name)


def test_random_names():
    assert (models.locate("random:small").seed, models.locate("random:small:12").seed) == (0, 12)
    assert models.locate("random:medium-rf").config == models.released_config("medium-base")
    assert models.locate("random:same-s").config.dit is None
