"""Inputs that the host makes for the graphs, in exact fp32: Fourier features and rotary tables.

Angles reach 60,000 rad, where one fp32 step is 0.004 rad, so the rounding of the tables and of the products is part
of the function: half precision breaks it, and so does doing it better. No graph computes these by itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sa3_engines.config import DiTConfig, ResamplerConfig, TextConfig

Array = np.ndarray

# exp(linspace(ln 0.5, ln 10000, 128)) as torch rounds it, IEEE-754 single precision.
_EXPO_128 = (
    "3f000000 3f0a6187 3f159a95 3f21bca5 3f2eda9d 3f3d08eb 3f4c5da5 3f5cf0ac 3f6edbd1 3f811d7d 3f8b962c 3f96e842 "
    "3fa32562 3fb0609a 3fbeae8a 3fce2577 3fdedd75 3ff0f08f 40023d77 400ccd82 401838d7 40249143 4031ea00 404057d7 "
    "404ff140 4060ce88 407309f2 40835ff5 408e078c 40998c5b 40a60051 40b376d3 40c204d6 40d1c10c 40e2c3ef 40f52806 "
    "410484f7 410f4455 411ae2d5 4127728f 41350718 4143b592 415394e0 4164bdb8 41774ad4 4185ac8c 419083e1 419c3c49 "
    "41a8e80a 41b69ada 41c56a15 41d56cc7 41e6bbe1 41f97261 4206d6b2 4211c633 421d98bf 422a60c5 42383223 42472264 "
    "425748d1 4268be87 427b9ec4 42880370 42930b55 429ef83f 42abdcc7 42b9ccf6 42c8de88 42d928fb 42eac5a2 42fdcff0 "
    "430932d0 4314534f 43205ad3 432d5c1d 433b6b63 434a9e91 435b0d54 436cd14a 43800308 438a64cc 43959e1d 43a1c079 "
    "43aedebf 43bd0d61 43cc627c 43dcf5eb 43eee17a 44012090 440b997c 4416ebd5 44232942 443064cb 443eb30e 444e2a56 "
    "445ee2be 4470f644 4482408c 448cd0d7 44983c71 44a49526 44b1ee31 44c05c5d 44cff62f 44e0d3dc 44f30fb3 45036316 "
    "450e0aee 45199000 4526043f 45337b10 45420965 4551c5f6 4562c95c 45752de0 45848821 458f47bc 459ae680 45a77686 "
    "45b50b5f 45c3ba31 45d399dc 45e4c318 45f750bf 4605afbd 46108752 461c4001 "
)


@lru_cache
def expo_frequencies(features: int) -> Array:
    """Log-spaced from 0.5 to 10000. 256 features, what every released model has, are exact; others are rounded once."""
    if features == 256:
        return np.array([int(word, 16) for word in _EXPO_128.split()], np.uint32).view(np.float32)
    return np.exp(np.linspace(np.log(0.5), np.log(10000.0), features // 2)).astype(np.float32)


def fourier_features(values: Array, features: int) -> Array:
    """(batch,) to (batch, features): cosines first, products rounded in this order."""
    angles = values.astype(np.float32)[:, None] * expo_frequencies(features) * np.float32(2) * np.float32(np.pi)
    return np.concatenate((np.cos(angles), np.sin(angles)), axis=1)


def timestep_features(t: Array, dit: DiTConfig) -> Array:
    """What `step` takes for the noise levels t (batch,)."""
    t = t.astype(np.float32)
    if dit.timestep_logsnr:
        t = np.clip(t, np.float32(1e-7), np.float32(1 - 1e-7))
        t = (5 - np.clip(np.log((1 - t) / t), -12, 5)) / np.float32(17)
    return fourier_features(t, dit.timestep_features)


@lru_cache
def rope_frequencies(dims: int, theta: float = 10000.0) -> Array:
    # Exponents, powers and reciprocals each rounded to fp32: what torch computes and checkpoints store.
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (1 / np.power(theta, exponents.astype(np.float64)).astype(np.float32)).astype(np.float32)


@lru_cache(maxsize=32)
def rope(length: int, dims: int, theta: float = 10000.0) -> tuple[Array, Array]:
    """Cosines and sines, each (length, dims), for positions 0..length-1."""
    half = np.arange(length, dtype=np.float32)[:, None] * rope_frequencies(dims, theta)
    angles = np.concatenate((half, half), axis=1)
    cos, sin = np.cos(angles), np.sin(angles)
    for table in (cos, sin):
        table.setflags(write=False)  # shared by every caller
    return cos, sin


def dit_rope(dit: DiTConfig, frames: int) -> tuple[Array, Array]:
    """Memory tokens come first and take positions too."""
    return rope(dit.memory_tokens + frames, dit.rope_dims)


def text_rope(text: TextConfig, tokens: int) -> tuple[Array, Array]:
    return rope(tokens, text.head_dim, text.rope_theta)


def resampler_rope(half: ResamplerConfig, latents: int) -> tuple[Array, Array]:
    """Positions start anew in every chunk, or run through the whole sequence under a sliding window."""
    return rope(latents * half.group if half.window else half.chunk_tokens, half.rope_dims)
