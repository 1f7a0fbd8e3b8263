"""The SAME autoencoder: patches of audio to latents and back, through one transformer each way."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_3.networks.layers import DyT, FeedForward, RotaryBuffer, attention, merge_heads, rotate, split_heads

Rope = tuple[Tensor, Tensor]


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, differential: bool) -> None:
        super().__init__()
        self.heads, self.parts = heads, 5 if differential else 3
        self.to_qkv = nn.Linear(width, self.parts * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = DyT(width // heads)
        self.k_norm = DyT(width // heads)

    def forward(self, x: Tensor, rope: Rope, band: Band | None) -> Tensor:
        """Full attention over x (batch, length, width), or within a band of neighbouring groups."""
        q, k, v, *second = split_heads(self.to_qkv(x), self.parts, self.heads)
        queries = tuple(rotate(self.q_norm(u), *rope) for u in (q, *second[:1]))
        keys = tuple(rotate(self.k_norm(u), *rope) for u in (k, *second[1:]))
        out = attention(queries, keys, v) if band is None else band.attend(queries, keys, v)
        return self.to_out(merge_heads(out))


class Band:
    """A sliding window: query i sees key j when -left <= j - i <= right, in groups of tokens.

    Each group of queries meets only the groups its window can reach, so work and memory grow with the length and
    not with its square. Exact: what the window does not cover is masked.
    """

    def __init__(self, groups: int, size: int, window: tuple[int, int], device: torch.device, dtype: torch.dtype):
        self.groups, self.size = groups, size
        self.before, self.after = window
        query = torch.arange(size, device=device)[:, None]
        key = torch.arange((self.before + 1 + self.after) * size, device=device)[None] - self.before * size
        near = (key - query >= -self.before * size) & (key - query <= self.after * size)
        group = torch.arange(groups, device=device)[:, None] * size
        exists = (key + group >= 0) & (key + group < groups * size)
        shown = near[None] & exists[:, None]  # (groups, size, reach)
        self.bias = torch.where(shown, 0.0, torch.finfo(dtype).min).to(dtype)

    def attend(self, queries: tuple[Tensor, ...], keys: tuple[Tensor, ...], value: Tensor) -> Tensor:
        out = attention(
            tuple(self._grouped(q) for q in queries),
            tuple(self._reach(k) for k in keys),
            self._reach(value),
            self.bias[None, None],
        )
        return out.flatten(2, 3)

    def _grouped(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.groups, self.size))

    def _reach(self, x: Tensor) -> Tensor:
        """For every group its own tokens and its neighbours', zeros beyond the ends."""
        x = F.pad(self._grouped(x), (0, 0, 0, 0, self.before, self.after))
        span = self.before + 1 + self.after
        return torch.cat([x[:, :, i : i + self.groups] for i in range(span)], dim=3)


class Block(nn.Module):
    def __init__(
        self, width: int, heads: int, ff_mult: float, rope_dims: int, *, differential: bool, sinusoidal: bool
    ) -> None:
        super().__init__()
        self.pre_norm = DyT(width)
        self.self_attn = SelfAttention(width, heads, differential=differential)
        self.ff_norm = DyT(width)
        self.ff = FeedForward(width, ff_mult, sinusoidal=sinusoidal)
        self.rope = RotaryBuffer(rope_dims)

    def forward(self, x: Tensor, rope: Rope, band: Band | None) -> Tensor:
        x = x + self.self_attn(self.pre_norm(x), rope, band)
        return x + self.ff(self.ff_norm(x))


class WeightNormConv(nn.Module):
    """Convolution whose stored weight is a direction and a length per output channel."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(channels_out, 1, 1))
        self.weight_v = nn.Parameter(torch.empty(channels_out, channels_in, kernel))
        self.bias = nn.Parameter(torch.empty(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.weight_v.float(), dim=(1, 2), keepdim=True)
        weight = (self.weight_v.float() * (self.weight_g.float() / norm)).to(x.dtype)
        return F.conv1d(x, weight, self.bias, padding=weight.shape[-1] // 2)


class ResamplingBlock(nn.Module):
    """The transformer that folds `stride` patches into a latent, or unfolds a latent into them."""

    def __init__(
        self,
        *,
        width: int,
        patch_width: int,
        depth: int,
        heads: int,
        stride: int,
        ff_mult: float,
        rope_dims: int,
        differential: bool,
        window: tuple[int, int] | None,
        chunk_tokens: int,
        midpoint_shift: bool,
        kernel: int,
        sinusoidal_from: int,
        mask_noise: float,
        decoder: bool,
    ) -> None:
        super().__init__()
        self.new_tokens = nn.Parameter(torch.empty(1, 1, width))
        self.mapping = WeightNormConv(*((width, patch_width) if decoder else (patch_width, width)), kernel)
        self.transformers = nn.ModuleList(
            Block(
                width,
                heads,
                ff_mult,
                rope_dims,
                differential=differential,
                sinusoidal=decoder and index >= sinusoidal_from,
            )
            for index in range(depth)
        )
        self.stride, self.group = stride, stride + 1
        self.window, self.chunk_tokens, self.midpoint_shift = window, chunk_tokens, midpoint_shift
        self.mask_noise = mask_noise

    def new(self, batch: int, groups: int, count: int, noise: Tensor | None) -> Tensor:
        """The learned token, `count` times in each group; noise (batch, groups, count, width) shifts each copy."""
        tokens = self.new_tokens.expand(batch, groups, count, -1)
        return tokens if noise is None else tokens + noise.to(tokens.dtype) * self.mask_noise

    def stack(self, x: Tensor, rope: Rope) -> Tensor:
        """The transformer over folded groups x (batch, groups, group, width)."""
        batch, groups, size, width = x.shape
        if self.window is not None:
            band = Band(groups, size, self.window, x.device, x.dtype)
            x = x.flatten(1, 2)
            for block in self.transformers:
                x = block(x, rope, band)
            return x.unflatten(1, (groups, size))
        blocks = list(self.transformers)
        half = len(blocks) // 2 if self.midpoint_shift else len(blocks)
        window, shift = self.chunk_tokens, self.chunk_tokens // 2
        count = groups * size // window
        x = x.reshape(batch * count, window, width)
        for block in blocks[:half]:
            x = block(x, rope, None)
        if half < len(blocks):
            # The second half sees windows shifted by half, the ends filled with the tokens that are there.
            x = x.reshape(batch, count * window, width)
            x = torch.cat((x[:, :shift], x, x[:, -shift:]), dim=1).reshape(batch * (count + 1), window, width)
            for block in blocks[half:]:
                x = block(x, rope, None)
            x = x.reshape(batch, (count + 1) * window, width)[:, shift:-shift]
        return x.reshape(batch, groups, size, width)


class Encoder(nn.Module):
    """Audio to latents; lengths are multiples of the chunk (the caller pads)."""

    def __init__(self, block: ResamplingBlock, width: int, latent_channels: int) -> None:
        super().__init__()
        # The checkpoint numbers what sits between: 1 is a transpose.
        self.layers = nn.ModuleList([block, nn.Identity(), nn.Linear(width, latent_channels)])

    def forward(self, patches: Tensor, rope: Rope, noise: Tensor | None) -> Tensor:
        """patches (batch, patch_width, n * stride), noise (batch, n, 1, width)."""
        block, project = cast("ResamplingBlock", self.layers[0]), self.layers[2]
        x = block.mapping(patches).transpose(1, 2).unflatten(1, (-1, block.stride))
        x = torch.cat((x, block.new(x.shape[0], x.shape[1], 1, noise)), dim=2)
        return project(block.stack(x, rope)[:, :, -1]).transpose(1, 2)


class Decoder(nn.Module):
    """Latents to patches; lengths are multiples of the chunk (the caller pads, and says so in `gate`)."""

    def __init__(self, block: ResamplingBlock, width: int, latent_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), nn.Linear(latent_channels, width), nn.Identity(), block])

    def forward(self, latents: Tensor, rope: Rope, noise: Tensor | None, gate: Tensor | None) -> Tensor:
        """latents (batch, channels, n), noise (batch, n, stride, width), gate (batch, n): 0 where padded."""
        project, block = self.layers[1], cast("ResamplingBlock", self.layers[3])
        x = project(latents.transpose(1, 2))
        if gate is not None:
            x = x * gate[:, :, None].to(x.dtype)
        x = torch.cat((x[:, :, None], block.new(x.shape[0], x.shape[1], block.stride, noise)), dim=2)
        x = block.stack(x, rope)[:, :, 1:].flatten(1, 2)
        return block.mapping(x.transpose(1, 2))


class Bottleneck(nn.Module):
    """Scales latents to unit spread. The noise the reference adds on decoding is the caller's to add."""

    running_std: Tensor
    noise_scaling_factor: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scaling_factor = nn.Parameter(torch.empty(1, channels, 1))
        self.bias = nn.Parameter(torch.empty(1, channels, 1))
        self.noise_scaling_factor = nn.Parameter(torch.empty(1, 0, 1))
        self.register_buffer("running_std", torch.empty(1))


class SAME(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder, latent_channels: int, patch: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.bottleneck = Bottleneck(latent_channels)
        self.patch = patch

    def encode(self, audio: Tensor, rope: Rope, noise: Tensor | None = None) -> Tensor:
        """audio (batch, channels, samples) to latents (batch, latent_channels, n)."""
        b = self.bottleneck
        patches = audio.unflatten(2, (-1, self.patch)).transpose(2, 3).flatten(1, 2)
        return (self.encoder(patches, rope, noise) * b.scaling_factor + b.bias) / b.running_std

    def decode(self, latents: Tensor, rope: Rope, noise: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        patches = self.decoder(latents * self.bottleneck.running_std, rope, noise, gate)
        return patches.unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(2)
