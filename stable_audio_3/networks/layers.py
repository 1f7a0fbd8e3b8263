"""The pieces the networks are made of: norms, rotary positions, attention, gated feed-forward."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in fp32 whatever the dtype (half precision overflows in the square)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.gamma.shape, self.gamma.float(), self.eps).to(x.dtype)


class DyT(nn.Module):
    """Dynamic tanh: the autoencoder's norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1))
        self.gamma = nn.Parameter(torch.empty(width))
        self.beta = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.gamma, torch.tanh(self.alpha * x))


class RotaryBuffer(nn.Module):
    """Holds the frequencies a checkpoint stores; the tables themselves come in from the host, in exact fp32."""

    inv_freq: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.empty(dims // 2))


class GatedLinear(nn.Module):
    """Value and gate in one projection."""

    def __init__(self, width: int, inner: int, *, sinusoidal: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)
        self.sinusoidal = sinusoidal

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * (torch.sin(math.pi * gate) if self.sinusoidal else F.silu(gate))


class FeedForward(nn.Module):
    def __init__(self, width: int, mult: float, *, sinusoidal: bool = False) -> None:
        super().__init__()
        inner = int(width * mult)
        # Identity keeps the checkpoint's numbering: 0 the gate, 2 the way back.
        self.ff = nn.Sequential(
            GatedLinear(width, inner, sinusoidal=sinusoidal), nn.Identity(), nn.Linear(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


def embedding_mlp(width_in: int, width: int, width_out: int | None = None, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width, bias=bias), nn.SiLU(), nn.Linear(width, width_out or width, bias=bias)
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first components of each head, in fp32; the rest pass through.

    x (..., length, head_dim); cos and sin (length, dims) are tables made on the host.
    """
    dims = cos.shape[-1]
    turned, rest = x[..., :dims].float(), x[..., dims:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned.to(x.dtype), rest), dim=-1)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(batch, length, parts * heads * dim) into `parts` tensors of (batch, heads, length, dim)."""
    batch, length, width = x.shape
    split = x.view(batch, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4)
    return split.unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attention(
    queries: tuple[Tensor, ...], keys: tuple[Tensor, ...], value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention, or the difference of two when there are two of each query and key."""
    out = F.scaled_dot_product_attention(queries[0], keys[0], value, attn_mask=bias)
    if len(queries) == 2:
        out = out - F.scaled_dot_product_attention(queries[1], keys[1], value, attn_mask=bias)
    return out
