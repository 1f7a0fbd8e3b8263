"""Audio to latents and back, in windows, so that memory does not grow with the length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa3_engines import graphs
from sa3_engines.config import ModelConfig, ResamplerConfig
from sa3_engines.engine import Engine
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_runtime.noise import Noise

Array = np.ndarray
Tick = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """Windows of `size` latents that overlap by `overlap`; each gives its middle, the ends give theirs too."""

    size: int = 128
    overlap: int = 32

    def __post_init__(self) -> None:
        given: tuple[Any, ...] = (self.size, self.overlap)  # what a caller passed, whatever the annotation says
        if any(isinstance(one, bool) or not isinstance(one, int | np.integer) for one in given):
            raise InvalidRequest(
                f"chunks of {self.size!r} latents, overlap {self.overlap!r}: two whole numbers were expected"
            )
        if self.size < 2 or not 0 <= self.overlap < self.size:
            raise InvalidRequest(
                f"chunks of {self.size} latents, overlap {self.overlap}: the size must be 2 or more, the overlap less"
            )

    def windows(self, total: int) -> list[tuple[int, int, int]]:
        """(start, first, end): a window starts at `start`, and what it gives is final from `first` to `end`.

        The last window is anchored at the end; where two overlap, the later one's middle counts. What is shorter than
        a window is one by itself.
        """
        if total < self.size:
            return [(0, 0, total)]
        starts = list(range(0, total - self.size + 1, self.size - self.overlap))
        if starts[-1] != total - self.size:
            starts.append(total - self.size)
        firsts = [0] + [start + self.overlap // 2 for start in starts[1:]]
        # No gap between two: a window reaches to start + size, and the next begins at most size - overlap on.
        return list(zip(starts, firsts, [*firsts[1:], total], strict=True))


def decode(
    engine: Engine,
    latents: Array,
    *,
    chunking: Chunking | None,
    samples: int | None = None,
    noise: Noise | None = None,
    tick: Tick | None = None,
) -> Array:
    """Latents (items, channels, n) to audio (items, channels, samples); see `pieces`."""
    parts = list(pieces(engine, latents, chunking=chunking, samples=samples, noise=noise, tick=tick))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def pieces(
    engine: Engine,
    latents: Array,
    *,
    chunking: Chunking | None,
    samples: int | None = None,
    noise: Noise | None = None,
    tick: Tick | None = None,
) -> Iterator[Array]:
    """The decoded audio in order, each piece final as soon as it comes: what a stream sends.

    Only what the first `samples` need is decoded: a latent reaches a bounded way into the sound before it.
    """
    config, total = engine.config, latents.shape[2]
    if noise is not None and not engine.support.token_noise:
        raise BackendUnavailable(f"the {engine.support.backend} engine decodes without noise only")
    windows = [(0, 0, total)] if chunking is None else chunking.windows(total)
    size = total if chunking is None else min(total, chunking.size)
    half = config.autoencoder.decoder
    # An odd tail, filled up to a whole chunk, comes out as sound too when everything is asked for.
    whole = -(-total // half.latents_multiple) * half.latents_multiple
    wanted = (whole if len(windows) == 1 else total) * config.ratio if samples is None else samples
    needed = -(-wanted // config.ratio)
    windows = [w for w in windows if w[1] < needed] or windows[:1]
    for index, (start, first, end) in enumerate(windows):
        from_, to = _told_by(half, first - start, min(end, needed) - start)
        from_, to = max(0, from_), min(size, to)
        out = _decode_one(engine, latents[:, :, start : start + size], from_, to, noise)
        last = wanted if index == len(windows) - 1 else end * config.ratio
        begin = (start + from_) * config.ratio
        yield out[:, :, first * config.ratio - begin : last - begin]
        if tick is not None:
            tick(index + 1, len(windows))


def _decode_one(engine: Engine, latents: Array, from_: int, to: int, noise: Noise | None) -> Array:
    """One window, of which only some latents are decoded; noise is drawn for all of it."""
    half = engine.config.autoencoder.decoder
    items, count = len(latents), latents.shape[2]
    token_noise = None
    if noise is not None:
        latents = _with_bottleneck_noise(engine.config, latents, noise)
        if half.mask_noise:
            filled = -(-count // half.latents_multiple) * half.latents_multiple
            shape = (items, filled, half.stride, half.width)
            end = -(-to // half.latents_multiple) * half.latents_multiple
            token_noise = np.ascontiguousarray(noise.draw("mask_decoder", shape)[:, from_:end])
    latents = np.ascontiguousarray(latents[:, :, from_:to])
    return engine.run("decode", graphs.decode(engine.config, latents, token_noise))["audio"]


def _with_bottleneck_noise(config: ModelConfig, latents: Array, noise: Noise) -> Array:
    """The reference shakes latents by a thousandth of their spread. Scaling comes after, so this is the same."""
    if not config.autoencoder.noise_regularize:
        return latents
    return latents + np.float32(1e-3) * noise.draw("bottleneck", latents.shape)


def _told_by(half: ResamplerConfig, first: int, end: int) -> tuple[int, int]:
    """The latents from `first` up to `end` come out of this half as if it had all of a window when it has these.

    Only as far as the window goes: what lies beyond its ends counts as its ends do.
    """
    edge = half.kernel // 2  # the convolution reaches one token further, past the one that stands for a latent
    if half.window:
        before, after = (half.depth * latents for latents in half.window)
        return first - edge - before, end + edge + after
    chunk = half.chunk_tokens
    shift = chunk // 2 if half.midpoint_shift else 0
    # The second half of the blocks sees chunks that begin in the middle of the first half's, so of each it has two. The
    # artificial edges of what is decoded lie outside of those.
    from_ = (first * half.group + 1 - 2 * edge + shift) // chunk - (1 if shift else 0)
    to = (end * half.group - 1 + 2 * edge + shift) // chunk + 1
    return from_ * half.latents_multiple, to * half.latents_multiple


def encode(
    engine: Engine,
    audio: Array,
    *,
    chunking: Chunking | None,
    noise: Noise | None = None,
    apply_noise: bool = True,
    tick: Tick | None = None,
) -> Array:
    """Audio (items, channels, samples) to latents. Drawn noise that is not applied still moves the stream on."""
    config = engine.config
    if noise is not None and apply_noise and not engine.support.token_noise:
        raise BackendUnavailable(f"the {engine.support.backend} engine encodes without noise only")
    samples = audio.shape[2]
    if chunking is None or samples < chunking.size * config.ratio:
        return _encode_one(engine, audio, noise, apply_noise=apply_noise)
    half = config.autoencoder.encoder
    wider = half.kernel // 2 * half.latents_multiple  # its convolution comes first: a chunk reads a token of the next
    total = samples // config.ratio
    parts: list[Array] = []
    windows = chunking.windows(total)
    for index, (start, first, end) in enumerate(windows):
        from_, to = _told_by(half, first - start, end - start)
        from_, to = max(0, from_ - wider), min(chunking.size, to + wider)
        piece = audio[:, :, start * config.ratio : (start + chunking.size) * config.ratio]
        latents = _encode_one(engine, piece, noise, from_, to, apply_noise=apply_noise)
        parts.append(latents[:, :, first - start - from_ : end - start - from_])
        if tick is not None:
            tick(index + 1, len(windows))
    return np.concatenate(parts, axis=2)


def _encode_one(
    engine: Engine, audio: Array, noise: Noise | None, from_: int = 0, to: int | None = None, *, apply_noise: bool
) -> Array:
    """One window, of which only some latents are made; noise is drawn for all of it."""
    config = engine.config
    half, missing = config.autoencoder.encoder, -audio.shape[2] % graphs.encode_multiple(config)
    if missing:
        audio = np.pad(audio, ((0, 0), (0, 0), (0, missing)))
    count = audio.shape[2] // config.ratio
    end = count if to is None else min(count, -(-to // half.latents_multiple) * half.latents_multiple)
    token_noise = None
    if noise is not None and half.mask_noise:
        token_noise = np.ascontiguousarray(noise.draw("mask_encoder", (len(audio), count, 1, half.width))[:, from_:end])
    audio = np.ascontiguousarray(audio[:, :, from_ * config.ratio : end * config.ratio])
    inputs = graphs.encode(config, audio, token_noise if apply_noise else None)
    return engine.run("encode", inputs)["latents"]
