"""Muon for the matrices inside transformers, Adam for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


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
            torch.optim.Muon(inner, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.98)),
        ]
        self.parameters = [p for _, p in every]
        self.average = average
        self.averaged = [p.detach().clone() for p in self.parameters] if average else []

    def step(self, loss: Tensor, share: float, index: int, most: float = 1.0) -> float:
        """share: of the learning rate. Gives the gradient's norm before it was cut to `most`."""
        for p in self.parameters:
            p.grad = None
        loss.backward()
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
        return norm

    def forget(self) -> None:
        """The average starts again, from what the weights are now."""
        with torch.no_grad():
            for mean, p in zip(self.averaged, self.parameters, strict=True):
                mean.copy_(p)

    def swap(self) -> None:
        """Exchanges the weights and their average: once before and once after what should see the average."""
        with torch.no_grad():
            for mean, p in zip(self.averaged, self.parameters, strict=True):
                held = p.detach().clone()
                p.copy_(mean)
                mean.copy_(held)

    def state(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts], "averaged": self.averaged}

    def restore(self, state: dict[str, Any]) -> None:
        for part, one in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(one)
        with torch.no_grad():
            for mean, one in zip(self.averaged, state["averaged"], strict=True):
                mean.copy_(one)


def _is_inner(name: str) -> bool:
    return ("transformers." in name or "layers." in name) and "embed_tokens" not in name and name.endswith("weight")
