"""The T5Gemma encoder, written here: docs/decisions/0002 says why not the library's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_3.networks.layers import merge_heads, rotate


class Norm(nn.Module):
    """RMS norm with its weight stored as the distance from one."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, scale: float, cap: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.scale, self.cap = heads, kv_heads, scale, cap
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q = rotate(self.q_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2), *rope)
        k = rotate(self.k_proj(x).unflatten(2, (self.kv_heads, -1)).transpose(1, 2), *rope)
        v = self.v_proj(x).unflatten(2, (self.kv_heads, -1)).transpose(1, 2)
        if self.kv_heads != self.heads:
            k, v = (u.repeat_interleave(self.heads // self.kv_heads, dim=1) for u in (k, v))
        scores = (q @ k.transpose(2, 3)).float() * self.scale
        if self.cap:
            scores = self.cap * torch.tanh(scores / self.cap)
        weights = torch.softmax(scores + bias[:, None, None, :], dim=-1)
        return self.o_proj(merge_heads(weights.to(v.dtype) @ v))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ff_width: int,
        scale: float,
        cap: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, kv_heads, head_dim, scale, cap)
        self.mlp = MLP(width, ff_width)
        self.pre_self_attn_layernorm = Norm(width, eps)
        self.post_self_attn_layernorm = Norm(width, eps)
        self.pre_feedforward_layernorm = Norm(width, eps)
        self.post_feedforward_layernorm = Norm(width, eps)

    def forward(self, x: Tensor, bias: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.post_self_attn_layernorm(self.self_attn(self.pre_self_attn_layernorm(x), bias, rope))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class T5GemmaEncoder(nn.Module):
    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        depth: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ff_width: int,
        query_scale: float,
        logit_cap: float,
        eps: float,
    ) -> None:
        super().__init__()
        # Given, not drawn: what draws it imports the compiler, a second of every start.
        self.embed_tokens = nn.Embedding(vocab_size, width, _weight=torch.empty(vocab_size, width))
        self.layers = nn.ModuleList(
            Layer(width, heads, kv_heads, head_dim, ff_width, query_scale, logit_cap, eps) for _ in range(depth)
        )
        self.norm = Norm(width, eps)

    def forward(self, rows: Tensor, bias: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """rows (batch, tokens, width): the prompt's rows of `embed_tokens`, unscaled; bias (batch, tokens) on keys.

        The table itself is 70 % of the weights and only these rows of it are ever needed, so looking them up is
        the caller's: it can stay a mapped file.
        """
        # The reference rounds sqrt(width) to the embedding's dtype, which is the dtype computed in.
        x = rows * torch.tensor(rows.shape[-1] ** 0.5, dtype=rows.dtype)
        for layer in self.layers:
            x = layer(x, bias, rope)
        return self.norm(x)
