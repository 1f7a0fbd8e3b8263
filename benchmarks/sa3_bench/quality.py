"""What a tier gives up for its speed: its graphs' answers to fixed inputs against those of fp32, and its codec.

Every tier is asked the same: the text encoder a prompt, the transformer one velocity per noise level from the same
latents (teacher-forced, so that errors do not add up), the codec the same synthetic music and the same latents.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sa3_bench import observed
from sa3_bench.cases import PROMPT
from sa3_engines import graphs, tables
from sa3_engines.errors import InvalidRequest
from sa3_engines.likeness import cosine, music, snr_db, spectral_db
from sa3_runtime import lengths
from sa3_runtime.conditioning import Conditioner
from sa3_runtime.pipeline import Pipeline

Array = np.ndarray
SECONDS = 4.0
LEVELS = (1.0, 0.75, 0.5, 0.25)
FLOOR = 0.9  # cosine below which a tier computes something else; coarse int8 stays above it


def answers(pipeline: Pipeline) -> dict[str, Array]:
    config = pipeline.config
    seconds = min(SECONDS, config.longest_seconds)
    clip = music(config.sample_rate, seconds)[: config.autoencoder.channels]
    latents = pipeline.encode((config.sample_rate, clip.T))
    fixed = np.random.default_rng(1).standard_normal(latents.shape, np.float32)
    return {
        "music": clip,
        "latents": latents,
        "decoded": pipeline.decode(fixed),
        "roundtrip": pipeline.decode(latents)[:, :, : clip.shape[1]],
        **_velocities(pipeline, seconds),
    }


def _velocities(pipeline: Pipeline, seconds: float) -> dict[str, Array]:
    engine, config = pipeline.engine, pipeline.config
    assert config.dit is not None
    ids, mask = _tokens(pipeline)
    conditioner = Conditioner(engine)
    embedded = conditioner.seconds(np.array([seconds], np.float32))
    context = conditioner.context(ids, mask, embedded)
    frames = lengths.frames(config, [seconds], 0.0, config.sample_size)
    inputs = graphs.prepare(config, frames, context.tokens, embedded, None)
    prepared = engine.run("prepare", inputs | {"context_bias": context.bias})
    rng = np.random.default_rng(2)
    clean, noise = (rng.standard_normal((1, config.dit.channels, frames), np.float32) for _ in range(2))
    found = {"hidden": context.tokens}
    for level in LEVELS:
        t = np.array([level], np.float32)
        step = {
            **prepared,
            "x": clean * np.float32(1 - level) + noise * np.float32(level),
            "timestep": tables.timestep_features(t, config.dit),
        }
        found[f"velocity {level:g}"] = engine.run("step", step)["velocity"]
    return found


def _tokens(pipeline: Pipeline) -> tuple[Array, Array]:
    text, tokenizer = pipeline.config.text, observed.tokenizer_of(pipeline.source)
    assert text is not None and tokenizer is not None
    row = tokenizer.ids(PROMPT)[: text.max_tokens]
    ids = np.array([row + [0] * (text.max_tokens - len(row))], np.int64)
    return ids, (np.arange(text.max_tokens)[None] < len(row)).astype(np.float32)


def parity(reference: Mapping[str, Array], tier: Mapping[str, Array]) -> dict[str, float]:
    """How near a tier's answers are to the reference's; dB are signal to error, 200 is exact."""
    names = [name for name in reference if name.startswith("velocity")]
    return {
        "velocity_cosine": min(cosine(reference[name], tier[name]) for name in names),
        "velocity_db": min(snr_db(reference[name], tier[name]) for name in names),
        "text_db": snr_db(reference["hidden"], tier["hidden"]),
        "encode_db": snr_db(reference["latents"], tier["latents"]),
        "decode_db": snr_db(reference["decoded"], tier["decoded"]),
        "decode_cosine": cosine(reference["decoded"], tier["decoded"]),
    }


def codec(tier: Mapping[str, Array]) -> dict[str, float]:
    """The codec against the music itself: says something of trained weights only."""
    return {
        "codec_db": snr_db(tier["music"], tier["roundtrip"][0]),
        "codec_spectral_db": spectral_db(tier["music"], tier["roundtrip"][0]),
    }


def wrong(found: Mapping[str, float]) -> str | None:
    """Why a tier does not count as the same model, whatever its speed."""
    for what in ("velocity", "decode"):
        value = found[f"{what}_cosine"]
        if not value >= FLOOR:  # NaN is wrong too
            return f"computes something else: {what} cosine {value:.3f} against fp32, needs {FLOOR:g}"
    return None


Scorer = Callable[[Array, int, str], float]  # sound (channels, samples), rate, prompt


def scorer(name: str) -> Scorer:
    """`module:function`, a CLAP score or any other that hears a clip and reads its prompt. None is ours."""
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise InvalidRequest(f"--clap {name!r}: module:function was expected, and it could not be had: {e}") from e
    return found
