"""Muon for the matrices inside transformers, Adam for everything else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, as torch's own, but in single precision and all matrices of a shape at once: in
    bfloat16, on a processor without it, this took five times as long as everything else in a step."""

    MOMENTUM, DECAY, ITERATIONS = 0.95, 0.01, 5
    THREADS = 2
    COEFFICIENTS = (3.4445, -4.775, 2.0315)

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float) -> None:
        super().__init__(list(parameters), {"lr": lr})
        self._pool = ThreadPoolExecutor(self.THREADS)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((p.shape[0], p.shape[1]), []).append(p)
            work = [several[i :: self.THREADS] for several in shapes.values() for i in range(self.THREADS)]
            list(self._pool.map(self._move, filter(None, work), itertools.repeat(group["lr"])))

    @torch.no_grad()
    def _move(self, several: list[nn.Parameter], rate: float) -> None:
        updates = self.orthogonal(torch.stack([self._momentum(p) for p in several]))
        # The size of Adam's steps, so that one rate suits every shape.
        far = rate * 0.2 * max(several[0].shape) ** 0.5
        for p, update in zip(several, updates, strict=True):
            p.mul_(1 - rate * self.DECAY).sub_(update, alpha=far)

    def _momentum(self, p: nn.Parameter) -> Tensor:
        assert p.grad is not None
        held = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        held.lerp_(p.grad, 1 - self.MOMENTUM)
        return p.grad.lerp(held, self.MOMENTUM)

    @classmethod
    def orthogonal(cls, matrices: Tensor) -> Tensor:
        """(several, rows, columns) to the nearest with all singular values near one, by Newton and Schulz."""
        tall = matrices.shape[1] > matrices.shape[2]
        x = matrices.mT if tall else matrices
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        a, b, c = cls.COEFFICIENTS
        for _ in range(cls.ITERATIONS):
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x


class Optimiser:
    """Both as one, with the averaged weights that are kept in the end."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, matrix_rate: float, rate: float, average: float = 0.0
    ) -> None:
        every = [(name, p) for name, p in named if p.requires_grad and p.numel()]
        inner = [p for name, p in every if p.ndim == 2 and _is_inner(name)]
        chosen = {id(p) for p in inner}
        rest = [p for _, p in every if id(p) not in chosen]
        self.rates = (matrix_rate, rate)
        self.parts: list[torch.optim.Optimizer] = [
            Muon(inner, lr=matrix_rate),
            torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.98)),
        ]
        self.names = [name for name, _ in every]
        self.parameters = [p for _, p in every]
        self.average = average
        self.averaged = [p.detach().clone() for p in self.parameters] if average else []

    def step(self, share: float, index: int, most: float = 1.0) -> float:
        """share: of the learning rate. Uses the gradients up, and gives their norm before it was cut to `most`."""
        for p in self.parameters:
            if p.grad is None:  # every step updates the same, whatever it happened to use
                p.grad = torch.zeros_like(p)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, most))
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * share
            if norm == norm:  # a step that is no number is left out
                part.step()
        if self.averaged:
            weight = min(self.average, (1 + index) / (10 + index))
            with torch.no_grad():
                for mean, p in zip(self.averaged, self.parameters, strict=True):
                    mean.lerp_(p, 1 - weight)
        for p in self.parameters:
            p.grad = None
        return norm

    def forget(self) -> None:
        """The average starts again, from what the weights are now."""
        with torch.no_grad():
            for mean, p in zip(self.averaged, self.parameters, strict=True):
                mean.copy_(p)

    def state(self) -> dict[str, Any]:
        return {
            "parts": [part.state_dict() for part in self.parts],
            "averaged": dict(zip(self.names, self.averaged, strict=False)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for part, one in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(one)
        with torch.no_grad():
            for name, mean in zip(self.names, self.averaged, strict=bool(self.averaged)):
                mean.copy_(state["averaged"][name])


def _is_inner(name: str) -> bool:
    return ("transformers." in name or "layers." in name) and "embed_tokens" not in name and name.endswith("weight")
