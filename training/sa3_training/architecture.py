"""The shape of `nano`: the released small model's configuration with smaller numbers, and its networks to train."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from sa3_engines import config as configs
from sa3_engines import models, tables
from sa3_engines.config import ModelConfig
from sa3_engines.models import HERE
from sa3_training import positions
from sa3_training.tokens import MAX_TOKENS, VOCABULARY
from stable_audio_3 import checkpoint
from stable_audio_3.networks.layers import DyT, RMSNorm, RotaryBuffer
from stable_audio_3.networks.same import SAME, WeightNormConv

LATENT_CHANNELS, PATCH, RATIO = 128, 2048, 4096
WIDTHS = {"autoencoder": 192, "dit": 192, "text": 128}

Json = dict[str, Any]


def config() -> Json:
    raw = copy.deepcopy(models.read_json(HERE / "released" / "small.json"))
    model = raw["model"]
    raw["sample_size"] = 216 * 4096  # 20 s
    raw["sa3_learned_seconds"] = 9  # the corpus has sounds of up to ten, few of them so long
    raw["sa3_trained"] = False  # the export says otherwise once it is true
    model["io_channels"] = LATENT_CHANNELS
    model["conditioning"]["cond_dim"] = WIDTHS["text"]
    prompt = model["conditioning"]["configs"][0]["config"]
    prompt |= {"max_length": MAX_TOKENS, "repo_id": "nano"}
    model["diffusion"]["config"] |= {
        "io_channels": LATENT_CHANNELS,
        "embed_dim": WIDTHS["dit"],
        "depth": 4,
        "num_heads": 3,
        "ff_kwargs": {"mult": 1.5},
        "cond_token_dim": WIDTHS["text"],
        "global_cond_dim": WIDTHS["text"],
        "local_add_cond_dim": LATENT_CHANNELS + 1,
        "num_memory_tokens": 12,
    }
    autoencoder = model["pretransform"]["config"]
    autoencoder["latent_dim"] = autoencoder["bottleneck"]["config"]["dim"] = LATENT_CHANNELS
    # Long patches and few of them: a tone is then few numbers. No differential attention: it begins as the difference
    # of two evenly spread ones, which is nothing, and a model this small does not find its way out of there in time.
    autoencoder["pretransform"]["config"]["patch_size"] = PATCH
    for half, side in (("encoder", "in"), ("decoder", "out")):
        autoencoder[half]["config"] |= {
            f"{side}_channels": 2 * PATCH,
            "channels": WIDTHS["autoencoder"],
            "c_mults": [1],
            "strides": [RATIO // PATCH],
            "chunk_size": 2 * RATIO // PATCH,
            "transformer_depths": [2],
            "latent_dim": LATENT_CHANNELS,
            "ff_mult": 1.0,
            "differential": False,
            "conv_mapping": False,
            "mask_noise": 0.0,
            "sinusoidal_blocks": [],
        }
    return raw


def text_config() -> Json:
    raw = copy.deepcopy(models.read_json(HERE / "released" / "t5gemma.json"))
    raw["encoder"] |= {
        "hidden_size": WIDTHS["text"],
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
    }
    return raw


def parsed() -> ModelConfig:
    return configs.parse(config(), text_config())


def build(model: ModelConfig, seed: int) -> checkpoint.Networks:
    """The networks with their first weights, the same for the same seed."""
    torch.manual_seed(seed)
    networks = checkpoint.build(model)
    for _, part in networks.parts():
        for module in part.modules():
            _begin(module)
    _begin_autoencoder(networks.autoencoder)
    if networks.dit is not None:
        net = networks.dit.transformer
        nn.init.normal_(net.memory_tokens, std=0.5)
        nn.init.zeros_(networks.dit.preprocess_conv.weight)
        nn.init.zeros_(networks.dit.postprocess_conv.weight)
        for block in networks.dit.blocks:
            # The branches' gate is sigmoid(1 - x): zero leaves them nearly open.
            nn.init.zeros_(block.to_scale_shift_gate)
            for branch in (block.self_attn.to_out, block.cross_attn.to_out, block.ff.ff[2], block.to_local_embed[2]):
                _scale(branch, 0.5)
        _scale(net.project_out, 0.1)
        _scale(net.global_cond_embedder[2], 0.1)
        positions.begin(networks.dit)
    if networks.conditioners is not None:
        nn.init.normal_(networks.conditioners.prompt["padding_embedding"], std=0.5)
    if networks.text is not None:
        # Rows are multiplied by the root of the width on their way in.
        nn.init.normal_(networks.text.embed_tokens.weight, std=WIDTHS["text"] ** -0.5)
    return networks


def _begin(module: nn.Module) -> None:
    if isinstance(module, RMSNorm):
        nn.init.ones_(module.gamma)
    elif isinstance(module, DyT):
        nn.init.constant_(module.alpha, 0.6)
        nn.init.ones_(module.gamma)
        nn.init.zeros_(module.beta)
    elif isinstance(module, RotaryBuffer):
        dims = 2 * len(module.inv_freq)
        module.inv_freq.copy_(torch.from_numpy(tables.rope_frequencies(dims).copy()))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            nn.init.zeros_(module.bias)
    elif type(module).__module__.endswith("t5gemma") and type(module).__name__ == "Norm":
        nn.init.zeros_(module.get_parameter("weight"))


@torch.no_grad()
def _scale(module: nn.Module, factor: float) -> None:
    module.get_parameter("weight").mul_(factor)


@torch.no_grad()
def _begin_autoencoder(same: SAME) -> None:
    for half in (same.encoder.layers[0], same.decoder.layers[3]):
        nn.init.normal_(half.get_parameter("new_tokens"), std=0.3)
        for block in half.get_submodule("transformers").children():
            _scale(block.get_submodule("self_attn.to_out"), 0.5)
            _scale(block.get_submodule("ff.ff.2"), 0.5)
        mapping = half.get_submodule("mapping")
        assert isinstance(mapping, WeightNormConv)
        nn.init.normal_(mapping.weight_v, std=mapping.weight_v.shape[1] ** -0.5)
        nn.init.ones_(mapping.weight_g)
        nn.init.zeros_(mapping.bias)
    bottleneck = same.bottleneck
    nn.init.ones_(bottleneck.scaling_factor)
    nn.init.zeros_(bottleneck.bias)
    bottleneck.running_std.fill_(1.0)
