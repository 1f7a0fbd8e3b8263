"""The diffusion transformer: `prepare` does what no sampling step changes, `step` predicts the velocity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_3.networks.layers import (
    FeedForward,
    RMSNorm,
    RotaryBuffer,
    attention,
    embedding_mlp,
    merge_heads,
    rotate,
    split_heads,
)

QK_EPS = 1e-6
BLOCK_EPS = 1e-5


class Prepared(NamedTuple):
    """What `prepare` hands to every step."""

    global_embed: Tensor  # (batch, width)
    keys: Tensor  # (layers, batch, 1 or 2, heads, context, head_dim); two in differential attention
    values: Tensor  # (layers, batch, heads, context, head_dim)
    local: Tensor  # (layers, batch, frames or 1, width); 1 when nothing is inpainted


class Masks(NamedTuple):
    """Which positions count. Absent means all do. Lengths are memory tokens and frames together."""

    context_bias: Tensor | None = None  # (batch, context), added to every cross-attention score
    key_bias: Tensor | None = None  # (batch, length), added to every self-attention score
    value_gate: Tensor | None = None  # (batch, length), multiplies self-attention values
    out_gate: Tensor | None = None  # (batch, length), multiplies the branches' outputs


ALL = Masks()


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, differential: bool) -> None:
        super().__init__()
        self.heads, self.parts = heads, 5 if differential else 3
        self.to_qkv = nn.Linear(width, self.parts * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(width // heads, QK_EPS)
        self.k_norm = RMSNorm(width // heads, QK_EPS)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], masks: Masks) -> Tensor:
        q, k, v, *second = split_heads(self.to_qkv(x), self.parts, self.heads)
        if masks.value_gate is not None:
            v = v * masks.value_gate[:, None, :, None].to(v.dtype)
        queries = tuple(rotate(self.q_norm(u), *rope) for u in (q, *second[:1]))
        keys = tuple(rotate(self.k_norm(u), *rope) for u in (k, *second[1:]))
        bias = None if masks.key_bias is None else masks.key_bias[:, None, None, :].to(v.dtype)
        out = self.to_out(merge_heads(attention(queries, keys, v, bias)))
        return out if masks.out_gate is None else out * masks.out_gate[:, :, None].to(out.dtype)


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, differential: bool) -> None:
        super().__init__()
        self.heads, self.pairs = heads, 2 if differential else 1
        self.to_q = nn.Linear(width, self.pairs * width, bias=False)
        self.to_kv = nn.Linear(width, (self.pairs + 1) * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(width // heads, QK_EPS)
        self.k_norm = RMSNorm(width // heads, QK_EPS)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        *keys, value = split_heads(self.to_kv(context), self.pairs + 1, self.heads)
        return torch.stack([self.k_norm(k) for k in keys], dim=1), value

    def forward(self, x: Tensor, keys: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        queries = tuple(self.q_norm(q) for q in split_heads(self.to_q(x), self.pairs, self.heads))
        if bias is not None:
            bias = bias[:, None, None, :].to(value.dtype)
        return self.to_out(merge_heads(attention(queries, keys.unbind(1), value, bias)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, local_width: int, ff_mult: float, *, differential: bool) -> None:
        super().__init__()
        self.to_scale_shift_gate = nn.Parameter(torch.empty(6 * width))
        self.pre_norm = RMSNorm(width, BLOCK_EPS)
        self.self_attn = SelfAttention(width, heads, differential=differential)
        self.cross_attend_norm = RMSNorm(width, BLOCK_EPS)
        self.cross_attn = CrossAttention(width, heads, differential=differential)
        self.ff_norm = RMSNorm(width, BLOCK_EPS)
        self.ff = FeedForward(width, ff_mult)
        self.to_local_embed = embedding_mlp(local_width, width)

    def forward(
        self,
        h: Tensor,
        modulation: Tensor,
        rope: tuple[Tensor, Tensor],
        keys: Tensor,
        value: Tensor,
        local: Tensor,
        memory: int,
        masks: Masks,
        *,
        last: bool,
    ) -> Tensor:
        """The last block leaves the memory tokens out once it has attended to them: nothing reads them any more."""
        scale1, shift1, gate1, scale2, shift2, gate2 = (self.to_scale_shift_gate + modulation)[:, None].chunk(6, dim=-1)
        y = self.pre_norm(h) * (1 + scale1) + shift1
        h = h + self.self_attn(y, rope, masks) * torch.sigmoid(1 - gate1)
        out_gate = masks.out_gate
        if last:
            h, out_gate = h[:, memory:], None if out_gate is None else out_gate[:, memory:]
        h = h + self.cross_attn(self.cross_attend_norm(h), keys, value, masks.context_bias)
        h = h + local if last else torch.cat((h[:, :memory], h[:, memory:] + local), dim=1)
        y = self.ff(self.ff_norm(h) * (1 + scale2) + shift2)
        if out_gate is not None:
            y = y * out_gate[:, :, None].to(y.dtype)
        return h + y * torch.sigmoid(1 - gate2)


class Transformer(nn.Module):
    """Holds the weights under the names checkpoints use; `DiT` drives it."""

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        local_width: int,
        ff_mult: float,
        memory_tokens: int,
        rope_dims: int,
        *,
        differential: bool,
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(channels, width, bias=False)
        self.project_out = nn.Linear(width, channels, bias=False)
        self.memory_tokens = nn.Parameter(torch.empty(memory_tokens, width))
        self.rotary_pos_emb = RotaryBuffer(rope_dims)
        self.global_cond_embedder = embedding_mlp(width, width, 6 * width)
        self.layers = nn.ModuleList(
            Block(width, heads, local_width, ff_mult, differential=differential) for _ in range(depth)
        )


class DiT(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        context_width: int,
        global_width: int,
        local_width: int,
        ff_mult: float,
        memory_tokens: int,
        rope_dims: int,
        differential: bool,
        timestep_features: int = 256,
    ) -> None:
        super().__init__()
        self.to_timestep_embed = embedding_mlp(timestep_features, width)
        self.to_cond_embed = embedding_mlp(context_width, width, bias=False)
        self.to_global_embed = embedding_mlp(global_width, width, bias=False)
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.transformer = Transformer(
            channels, width, depth, heads, local_width, ff_mult, memory_tokens, rope_dims, differential=differential
        )

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self.transformer.layers if isinstance(block, Block)]

    def prepare(self, context: Tensor, global_cond: Tensor, local: Tensor) -> Prepared:
        """context (batch, context, width_in), global_cond (batch, width_in), local (batch, channels, frames or 1).

        One frame of local conditioning stands for all of them: what it is when nothing is inpainted.
        """
        context = self.to_cond_embed(context)
        local = local.transpose(1, 2)
        pairs = [block.cross_attn.keys_values(context) for block in self.blocks]
        return Prepared(
            global_embed=self.to_global_embed(global_cond),
            keys=torch.stack([keys for keys, _ in pairs]),
            values=torch.stack([value for _, value in pairs]),
            local=torch.stack([block.to_local_embed(local) for block in self.blocks]),
        )

    def step(
        self, x: Tensor, timestep: Tensor, prepared: Prepared, rope: tuple[Tensor, Tensor], masks: Masks = ALL
    ) -> Tensor:
        """Velocity at x (batch, channels, frames); timestep (batch, features) are its Fourier features.

        The features, and the rotary tables over memory tokens and frames, are made on the host: their exact
        fp32 rounding is part of the function.
        """
        net = self.transformer
        memory = net.memory_tokens.shape[0]
        modulation = net.global_cond_embedder(prepared.global_embed + self.to_timestep_embed(timestep))
        h = net.project_in((x + self.preprocess_conv(x)).transpose(1, 2))
        h = torch.cat((net.memory_tokens.expand(x.shape[0], -1, -1), h), dim=1)
        for index, block in enumerate(self.blocks):
            keys, value, local = prepared.keys[index], prepared.values[index], prepared.local[index]
            last = index == len(self.blocks) - 1
            h = block(h, modulation, rope, keys, value, local, memory, masks, last=last)
        v = net.project_out(h).transpose(1, 2)
        return v + self.postprocess_conv(v)
