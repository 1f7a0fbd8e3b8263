"""Inputs of the graphs completed with what the host makes for them, so that every caller feeds them alike."""

from __future__ import annotations

import numpy as np

from sa3_engines import tables
from sa3_engines.config import ModelConfig, ResamplerConfig, TextConfig
from sa3_engines.engine import Outputs

Array = np.ndarray
MASKED = float(np.finfo(np.float32).min)  # never -inf: a row with everything masked must stay finite


def text(config: TextConfig, ids: Array, mask: Array) -> Outputs:
    """ids and mask (batch, tokens); mask is 1 for real tokens."""
    cos, sin = tables.text_rope(config, ids.shape[1])
    bias = np.where(mask > 0, np.float32(0), np.float32(MASKED))
    return {"ids": ids.astype(np.int64), "mask_bias": bias, "rope_cos": cos, "rope_sin": sin}


def prepare(config: ModelConfig, frames: int, context: Array, global_cond: Array, local: Array | None) -> Outputs:
    """local None: nothing is inpainted. Masks, where there are any, are the caller's to add."""
    assert config.dit is not None
    cos, sin = tables.dit_rope(config.dit, frames)
    if local is None:
        local = np.zeros((context.shape[0], config.dit.local_width, 1), np.float32)
    return {"context": context, "global_cond": global_cond, "local": local, "rope_cos": cos, "rope_sin": sin}


def padding_masks(config: ModelConfig, valid: Array, *, exclude: bool) -> Outputs:
    """Masks for frames that pad an item to its batch's length; valid (batch, frames) is true where there is sound.

    exclude=True is what training and CUDA with flash-attn do: padded frames are no keys, and get nothing from
    attention and feed-forward. False is what upstream does on a CPU: only their values are zeroed, and they still
    take part in the softmax.
    """
    assert config.dit is not None
    memory = np.ones((valid.shape[0], config.dit.memory_tokens), bool)
    gate = np.concatenate((memory, valid.astype(bool)), axis=1)
    if not exclude:
        return {"value_gate": gate.astype(np.float32)}
    bias = np.where(gate, np.float32(0), np.float32(MASKED))
    return {"key_bias": bias, "out_gate": gate.astype(np.float32)}


def _half(half: ResamplerConfig, latents: int, noise: Array | None) -> Outputs:
    if latents % half.latents_multiple:
        raise ValueError(f"{latents} latents are not a multiple of {half.latents_multiple}")
    cos, sin = tables.resampler_rope(half, latents)
    return {"rope_cos": cos, "rope_sin": sin} | ({} if noise is None else {"token_noise": noise})


def encode(config: ModelConfig, audio: Array, noise: Array | None = None) -> Outputs:
    """audio (batch, channels, n), n a multiple of `encode_multiple`."""
    return {"audio": audio} | _half(config.autoencoder.encoder, audio.shape[2] // config.ratio, noise)


def decode(config: ModelConfig, latents: Array, noise: Array | None = None) -> Outputs:
    """latents (batch, channels, n), n odd or even: a chunk is filled up, and the gate says with what.

    Noise, where asked for, has a row for every latent of the filled-up chunks: the reference draws for those too.
    """
    missing = -latents.shape[2] % config.autoencoder.decoder.latents_multiple
    inputs: Outputs = {}
    if missing:
        gate = np.ones((latents.shape[0], latents.shape[2] + missing), np.float32)
        gate[:, latents.shape[2] :] = 0
        latents = np.pad(latents, ((0, 0), (0, 0), (0, missing)))
        inputs["frame_gate"] = gate
    return {"latents": latents} | inputs | _half(config.autoencoder.decoder, latents.shape[2], noise)


def encode_multiple(config: ModelConfig) -> int:
    """Samples per encoder chunk: what audio must be padded to."""
    return config.ratio * config.autoencoder.encoder.latents_multiple
