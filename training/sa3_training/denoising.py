"""What the transformer is asked in training: prompts, durations, kept regions; the same as at inference, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sa3_engines import graphs, tables
from sa3_engines.config import ModelConfig
from stable_audio_3.checkpoint import Conditioners, Networks
from stable_audio_3.networks.dit import DiT, Masks
from stable_audio_3.networks.t5gemma import T5GemmaEncoder


@dataclass(frozen=True)
class Asked:
    """A batch's conditions. dropped (items,): those that see no prompt."""

    ids: Tensor  # (items, max_tokens)
    seconds: np.ndarray  # (items,)
    local: Tensor  # (items, 1 + channels, frames or 1)
    dropped: Tensor | None = None


class Denoiser(nn.Module):
    """Text encoder, conditioners and transformer as one function of the noisy latents and the conditions."""

    def __init__(self, networks: Networks, model: ModelConfig) -> None:
        super().__init__()
        assert networks.dit is not None and networks.text is not None and networks.conditioners is not None
        self.dit: DiT = networks.dit
        self.text: T5GemmaEncoder = networks.text
        self.conditioners: Conditioners = networks.conditioners
        self.model = model

    def duration(self, seconds: np.ndarray) -> Tensor:
        low, high = np.float32(self.model.seconds_min), np.float32(self.model.seconds_max)
        share = (np.clip(seconds.astype(np.float32), low, high) - low) / (high - low)
        linear = self.conditioners.seconds_total.get_submodule("embedder.embedding.1")
        features = tables.fourier_features(share, linear.get_parameter("weight").shape[1])
        return linear(torch.from_numpy(features).to(linear.get_parameter("weight").device))

    def context(self, asked: Asked, duration: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and what is added to their scores. Padding is one token that counts many times over."""
        text = self.model.text
        assert text is not None
        ids = asked.ids.long()
        counts = (ids > 0).sum(1)
        used = max(1, int(counts.max()))
        real = torch.arange(used, device=ids.device)[None] < counts[:, None]
        masked = ids.new_full((), 0).float() + graphs.MASKED
        cos, sin = (torch.from_numpy(a.copy()).to(ids.device) for a in tables.text_rope(text, used))
        bias = torch.where(real, 0.0, masked)
        hidden = self.text(self.text.embed_tokens(ids[:, :used]), bias, (cos, sin))
        padding = self.conditioners.prompt["padding_embedding"].expand(len(ids), 1, -1)
        tokens = torch.cat((hidden, padding, duration[:, None]), dim=1)
        many = torch.log((text.max_tokens - counts).float().clamp(min=1e-9)).clamp(min=graphs.MASKED)[:, None]
        bias = torch.cat((bias, many, torch.zeros_like(many)), dim=1)
        if asked.dropped is not None:
            # No prompt: every key is the same zero vector, so any number of them is the same.
            tokens = torch.where(asked.dropped[:, None, None], 0.0, tokens)
            bias = torch.where(asked.dropped[:, None], 0.0, bias)
        return tokens, bias

    def forward(self, x: Tensor, t: Tensor, asked: Asked) -> Tensor:
        """The velocity at x (items, channels, frames), t (items,)."""
        dit = self.model.dit
        assert dit is not None
        duration = self.duration(asked.seconds)
        tokens, bias = self.context(asked, duration)
        prepared = self.dit.prepare(tokens, duration, asked.local)
        features = torch.from_numpy(tables.timestep_features(t.cpu().numpy(), dit)).to(x.device)
        cos, sin = (torch.from_numpy(a.copy()).to(x.device) for a in tables.dit_rope(dit, x.shape[2]))
        return self.dit.step(x, features, prepared, (cos, sin), Masks(context_bias=bias))


def nothing_kept(items: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Local conditions where all is made anew; one frame of them stands for all."""
    return torch.zeros(items, 1 + channels, 1, device=device)
