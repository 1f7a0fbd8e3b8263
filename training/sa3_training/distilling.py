"""The third stage: the transformer learns to be right in the few steps the pipeline takes.

At every noise level of the sampler's schedule it is shown where its own guided path, taken in small steps, would
end, and learns to say so at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sa3_runtime import schedule
from sa3_training import flow, running
from sa3_training.denoising import Asked, Denoiser
from sa3_training.flow import Noised
from sa3_training.latents import Dataset
from sa3_training.optimising import Optimiser
from sa3_training.running import State
from sa3_training.sharing import Shared

LEVELS = schedule.build(8, 1.0, None, np.ones(1))[0]  # of the default request


@dataclass(frozen=True, kw_only=True)
class Options:
    steps: int = 220
    batch: int = 24
    matrix_rate: float = 6e-4
    rate: float = 2e-4
    average: float = 0.97
    guidance: float = 3.0
    path: int = 4  # steps from pure noise; fewer from further on
    seed: int = 3
    device: str = "cpu"
    parts: int = 2  # of a batch, each a thread's
    half: bool | None = None  # multiply in bfloat16; None: where the device is made for it


class Distillation:
    name = "distilled"

    def __init__(self, student: Denoiser, teacher: Denoiser, data: Dataset, options: Options) -> None:
        """Both begin as the flow stage left them."""
        self.student, self.teacher = student.to(options.device), teacher.to(options.device).requires_grad_(False)
        self.options, self.steps = options, options.steps
        self.half = running.half(options.device) if options.half is None else options.half
        asks = flow.Options(batch=options.batch, dropped=0.0, full_padding=0.3, device=options.device)
        self.batches = flow.Batches(data, student.model, asks)
        self.shared = Shared(self.student, options.parts)
        self.optimiser = Optimiser(
            student.named_parameters(), matrix_rate=options.matrix_rate, rate=options.rate, average=options.average
        )

    def step(self, index: int) -> Mapping[str, float]:
        draw = running.generator(self.options.seed, index)
        batch = self.batches.make(draw)
        noise = torch.randn(batch.latents.shape, generator=draw).to(batch.latents.device)
        level = index % (len(LEVELS) - 1)
        levels = torch.full((len(noise),), float(LEVELS[level]))
        parts = Noised(batch, noise, levels).split(self.options.parts)
        found = self.shared.gradients(parts, lambda student, part: self.losses(student, part, level))
        share = running.rate(index, self.steps, warm=30, fall=0.6)
        return found | {"norm": self.optimiser.step(share, index)}

    def losses(self, student: Denoiser, part: Noised, level: int) -> Mapping[str, Tensor]:
        x0, asked, t = part.batch.latents, part.batch.asked, float(LEVELS[level])
        x = (1 - t) * x0 + t * part.noise
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            end = self.path(x, t, level, asked)
            found = x - t * student(x, part.levels, asked).float()
        weight = part.batch.weight
        each = ((found - end).square() * weight).mean((1, 2)) / weight.mean((1, 2))
        share = flow.shares(x0, weight)
        truth = ((found.detach() - x0).square() * weight).mean() / weight.mean()
        return {"loss": (each * share).mean() / share.mean(), "truth": truth}

    @torch.no_grad()
    def path(self, x: Tensor, t: float, level: int, asked: Asked) -> Tensor:
        """The end of the teacher's way from x at noise level t, by Euler's method."""
        begin = 1 - level / (len(LEVELS) - 1)
        count = max(2, round(self.options.path * begin))
        line = np.linspace(begin, 0, count + 1, dtype=np.float32)[None]
        levels = schedule.shifted(line, None, np.ones(1))[0]
        levels[0] = t
        without = replace(asked, dropped=torch.ones(len(x), dtype=torch.bool, device=x.device))
        for now, then in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            at = torch.full((len(x),), now)
            velocity = self.teacher(x, at, asked).float()
            if self.options.guidance != 1 and now > 0.3:
                plain = self.teacher(x, at, without).float()
                velocity = plain + self.options.guidance * (velocity - plain)
            x = x + (then - now) * velocity
        return x

    def state(self) -> State:
        return {"denoiser": self.student.state_dict(), "optimiser": self.optimiser.state()}

    def restore(self, state: State) -> None:
        self.student.load_state_dict(state["denoiser"])
        self.optimiser.restore(state["optimiser"])
