"""The first stage: the autoencoder learns to give back the corpus, through small latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sa3_engines import tables
from sa3_engines.config import ModelConfig
from sa3_training import clips, components, running, spectra
from sa3_training.clips import Crops
from sa3_training.corpus import FAR_SIDE
from sa3_training.optimising import Optimiser
from sa3_training.running import State
from sa3_training.sharing import Shared
from stable_audio_3.networks.same import SAME

SIZES = ((4096, 512), (2048, 256), (4096, 1024), (2048, 512))  # two resolutions a step, in turn
WEIGHTS = {"spectral": 0.6, "logarithmic": 0.25, "waveform": 0.6}
NOISE = 0.15  # at most, on latents of unit spread: what the transformer makes is never exact either
PANNED = 0.4  # of the crops, to one side; before sides are exchanged
SPREAD_MEMORY = 0.99


@dataclass(frozen=True, kw_only=True)
class Options:
    steps: int = 800
    batch: int = 24
    matrix_rate: float = 2e-4
    rate: float = 4e-5
    average: float = 0.99
    seed: int = 1
    device: str = "cpu"
    parts: int = 2  # of a batch, each a thread's


@dataclass(frozen=True)
class Noisy:
    """Part of a batch of sounds, the noise on their latents, and a number of its own."""

    audio: Tensor
    noise: Tensor
    number: int


class Autoencoding:
    """Steps on crops. The first weights project on their principal components; training goes on from there."""

    def __init__(
        self, same: SAME, model: ModelConfig, crops: Crops, options: Options, name: str = "autoencoder"
    ) -> None:
        self.name, self.steps, self.options = name, options.steps, options
        self.same, self.crops = same.to(options.device), crops
        self.latents = clips.LATENTS
        self.rope = rope(model, self.latents, options.device)
        components.freeze(same)
        self.pins: list[components.Pin] = []
        self.channels = same.bottleneck.bias.shape[1]
        self.shared = Shared(self.same, options.parts)
        self.optimiser = Optimiser(
            same.named_parameters(), matrix_rate=options.matrix_rate, rate=options.rate, average=options.average
        )

    def begin(self) -> None:
        """The first weights, from the data."""
        options, form = self.options, components.layout_of(self.same)
        found = components.principal(self.crops, self.same.patch, form.components, options.seed, room=form.room)
        components.begin(self.same.cpu(), found)
        self.same.to(options.device)
        with torch.no_grad():
            latents = self.same.encode(self.batch(running.generator(options.seed, -1), 8 * options.batch), self.rope)
            components.balance(self.same, latents.std((0, 2)))
            latents = self.same.encode(self.batch(running.generator(options.seed, -1), 8 * options.batch), self.rope)
            self.same.bottleneck.running_std.mul_(latents.std())
        self.pins = components.pins(self.same)
        self.optimiser.forget()

    def batch(self, draw: torch.Generator, count: int) -> Tensor:
        chosen = torch.randint(0, len(self.crops), (count,), generator=draw).tolist()
        swapped = torch.randint(0, 2, (count,), generator=draw).tolist()
        audio = torch.from_numpy(np.stack([self.crops[i] for i in chosen])).float() / 32767
        # Panned more often than in the corpus: it is one latent, and few clips would speak for it.
        panned = torch.rand(count, generator=draw) < PANNED
        audio[panned, 1] *= FAR_SIDE
        audio = torch.stack([one.flip(0) if flip else one for one, flip in zip(audio, swapped, strict=True)])
        return audio.to(self.options.device)

    def step(self, index: int) -> Mapping[str, float]:
        if index == 0:
            self.begin()
        draw = running.generator(self.options.seed, index)
        audio = self.batch(draw, self.options.batch)
        sigma = NOISE * torch.rand(len(audio), 1, 1, generator=draw).to(audio.device)
        noise = sigma * torch.randn(len(audio), self.channels, self.latents, generator=draw).to(audio.device)
        parts = [
            Noisy(audio[i :: self.options.parts], noise[i :: self.options.parts], index * self.options.parts + i)
            for i in range(self.options.parts)
        ]
        found = self.shared.gradients(parts, self.losses)
        for pin in self.pins:
            pin.still()
        norm = self.optimiser.step(running.rate(index, self.steps), index)
        for pin in self.pins:
            pin.hold()
        self._follow(found.pop("spread"))
        return found | {"norm": norm}

    def losses(self, same: SAME, part: Noisy) -> Mapping[str, Tensor]:
        latents = same.encode(part.audio, self.rope)
        made = same.decode(latents + part.noise, self.rope)
        draw = running.generator(self.options.seed + 1, part.number)
        losses = spectra.loss(made, part.audio, SIZES[part.number // self.options.parts % len(SIZES)], draw)
        total = sum((WEIGHTS[name] * value for name, value in losses.items()), part.audio.new_zeros(()))
        return {"loss": total, "spread": latents.detach().std(), **losses}

    @torch.no_grad()
    def _follow(self, spread: float) -> None:
        """The bottleneck divides by the spread it has seen."""
        held = self.same.bottleneck.running_std
        held.lerp_(held * spread, 1 - SPREAD_MEMORY)

    def state(self) -> State:
        return {"same": self.same.state_dict(), "optimiser": self.optimiser.state()}

    def restore(self, state: State) -> None:
        self.same.load_state_dict(state["same"])
        self.pins = components.pins(self.same)
        self.optimiser.restore(state["optimiser"])


def rope(model: ModelConfig, latents: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    cos, sin = tables.resampler_rope(model.autoencoder.encoder, latents)
    return torch.from_numpy(cos.copy()).to(device), torch.from_numpy(sin.copy()).to(device)
