"""The second stage: rectified flow. The transformer and the text encoder learn together what the corpus sounds like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sa3_engines.config import ModelConfig
from sa3_runtime import lengths, schedule
from sa3_training import running
from sa3_training.denoising import Asked, Denoiser, nothing_kept
from sa3_training.latents import Dataset
from sa3_training.optimising import Optimiser
from sa3_training.running import State
from sa3_training.sharing import Shared

PADDING_SECONDS = 6.0  # what the pipeline makes more than was asked for
FEWER_PADDING = 6  # latents; most batches have no more, since silence teaches little
QUIET = 0.1  # mean square below which latents count alike
FALL = 0.6  # of the steps, with a rate that falls to nothing: what is fine is learned then
BEGINNING = 26  # latents, 2.4 s
TAIL_WEIGHT = 0.25  # of a latent beyond the duration


@dataclass(frozen=True, kw_only=True)
class Options:
    steps: int = 13000
    batch: int = 32
    matrix_rate: float = 3e-3
    rate: float = 1e-3
    average: float = 0.998
    dropped: float = 0.1
    inpainted: float = 0.15
    full_padding: float = 0.1
    beginnings: float = 0.7  # batches that end after BEGINNING latents: most is said by then, in half the time
    seed: int = 2
    device: str = "cpu"
    parts: int = 2  # of a batch, each a thread's
    half: bool | None = None  # multiply in bfloat16; None: where the device is made for it


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # (items, channels, frames)
    asked: Asked
    weight: Tensor  # (items, 1, frames)

    def part(self, index: int, parts: int) -> Batch:
        """Every so manieth item."""
        of = slice(index, None, parts)
        asked = self.asked
        dropped = asked.dropped if asked.dropped is None else asked.dropped[of]
        asked = replace(asked, ids=asked.ids[of], seconds=asked.seconds[of], local=asked.local[of], dropped=dropped)
        return Batch(self.latents[of], asked, self.weight[of])


@dataclass(frozen=True)
class Noised:
    """A batch with the noise that is added to it, and how much of it, (items,)."""

    batch: Batch
    noise: Tensor
    levels: Tensor

    def split(self, parts: int) -> list[Noised]:
        return [Noised(self.batch.part(i, parts), self.noise[i::parts], self.levels[i::parts]) for i in range(parts)]


class Batches:
    """Batches of clips of about one length, by number: a batch is the same whenever it is asked for."""

    def __init__(self, data: Dataset, model: ModelConfig, options: Options) -> None:
        self.data, self.model, self.options = data, model, options
        self.order = np.argsort(data.seconds, kind="stable")
        self.until = np.cumsum(data.practice[self.order], dtype=np.float64)  # practice, up to and with each

    def make(self, draw: torch.Generator, *, full: bool | None = None) -> Batch:
        options, data = self.options, self.data
        reach = max(options.batch, len(data) // 6)
        low = min(max(0, int(self._places(draw, 1)[0]) - reach // 2), max(0, len(data) - reach))
        chosen = self.order[self._places(draw, options.batch, low, min(low + reach, len(data)))]
        padding = PADDING_SECONDS
        whole = full if full is not None else _chance(draw, options.full_padding)
        if not whole:
            padding = float(FEWER_PADDING * self.model.ratio / self.model.sample_rate)
        seconds = data.seconds[chosen]
        frames = lengths.frames(self.model, [float(s) for s in seconds], padding, self.model.sample_size)
        if not whole and _chance(draw, options.beginnings):
            frames = min(frames, BEGINNING)
        canvas = torch.from_numpy(np.stack([data.canvas(int(i), frames) for i in chosen])).transpose(1, 2)
        sounding = torch.from_numpy(lengths.effective(self.model, [float(s) for s in seconds]))
        inside = torch.arange(frames)[None] < sounding[:, None]
        local = nothing_kept(len(chosen), canvas.shape[1])
        if _chance(draw, 2 * options.inpainted):
            kept = self._kept(inside, draw)
            local = torch.cat((kept, canvas * kept), dim=1)
        dropped = torch.rand(len(chosen), generator=draw) < options.dropped
        to = options.device
        ids = torch.from_numpy(data.ids[chosen].astype(np.int64))
        return Batch(
            canvas.to(to),
            Asked(ids.to(to), seconds, local.to(to), dropped.to(to)),
            torch.where(inside, 1.0, TAIL_WEIGHT)[:, None].to(to),
        )

    def _places(self, draw: torch.Generator, count: int, low: int = 0, high: int | None = None) -> np.ndarray:
        """Drawn from low up to high of those in order, each as often as it is to be practised."""
        high = len(self.order) if high is None else high
        least, most = (self.until[low - 1] if low else 0.0), self.until[high - 1]
        share = torch.rand(count, generator=draw, dtype=torch.float64).numpy()
        return np.searchsorted(self.until[:high], least + share * (most - least), side="right").clip(low, high - 1)

    def _kept(self, inside: Tensor, draw: torch.Generator) -> Tensor:
        """(items, 1, frames): of half the items a beginning, or all but a part of it, is given."""
        items, frames = inside.shape
        when = torch.arange(frames)[None] / inside.sum(1, keepdim=True)
        low, high = torch.rand(items, 2, generator=draw).sort(dim=1).values.unbind(1)
        high = torch.where(torch.rand(items, generator=draw) < 0.5, 2.0, high)
        kept = inside & ~((when >= low[:, None]) & (when < high[:, None]))
        kept &= torch.rand(items, 1, generator=draw) < 0.5
        return kept[:, None].float()


def _chance(draw: torch.Generator, share: float) -> bool:
    return float(torch.rand((), generator=draw)) < share


def noise_levels(count: int, draw: torch.Generator) -> Tensor:
    """As the sampler's: most of its steps are near 1, and the first is at it."""
    u = torch.rand(count, generator=draw)
    shifted = schedule.shifted(u[:, None].numpy(), None, np.ones(count))[:, 0]
    levels = torch.from_numpy(np.ascontiguousarray(shifted))
    kind = torch.rand(count, generator=draw)
    return torch.where(kind < 0.1, 1.0, torch.where(kind < 0.25, torch.rand(count, generator=draw), levels))


def shares(x0: Tensor, weight: Tensor) -> Tensor:
    """How much each item counts. A drum's latents are a hundredth of a sweep's in power, and as much a sound."""
    power = (x0.square() * weight).mean((1, 2)) / weight.mean((1, 2))
    return 1 / (power + QUIET)


class Flow:
    name = "flow"

    def __init__(self, denoiser: Denoiser, data: Dataset, options: Options) -> None:
        self.denoiser, self.options, self.steps = denoiser.to(options.device), options, options.steps
        self.half = running.half(options.device) if options.half is None else options.half
        self.batches = Batches(data, denoiser.model, options)
        self.shared = Shared(self.denoiser, options.parts)
        self.optimiser = Optimiser(
            denoiser.named_parameters(), matrix_rate=options.matrix_rate, rate=options.rate, average=options.average
        )

    def step(self, index: int) -> Mapping[str, float]:
        draw = running.generator(self.options.seed, index)
        batch = self.batches.make(draw)
        levels = noise_levels(len(batch.latents), draw).to(batch.latents.device)
        noise = torch.randn(batch.latents.shape, generator=draw).to(batch.latents.device)
        parts = Noised(batch, noise, levels).split(self.options.parts)
        found = self.shared.gradients(parts, self.losses)
        return found | {"norm": self.optimiser.step(running.rate(index, self.steps, fall=FALL), index)}

    def losses(self, denoiser: Denoiser, part: Noised) -> Mapping[str, Tensor]:
        x0, noise, t = part.batch.latents, part.noise, part.levels
        x = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.half):
            found = denoiser(x, t, part.batch.asked)
        weight = part.batch.weight
        each = ((found.float() - (noise - x0)).square() * weight).mean((1, 2)) / weight.mean((1, 2))
        share = shares(x0, weight)
        high = t > 0.95
        return {
            "loss": (each * share).mean() / share.mean(),
            "high": each[high].mean() if bool(high.any()) else each.mean(),
            "low": each[~high].mean() if bool((~high).any()) else each.mean(),
        }

    def state(self) -> State:
        return {"denoiser": self.denoiser.state_dict(), "optimiser": self.optimiser.state()}

    def restore(self, state: State) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimiser.restore(state["optimiser"])
