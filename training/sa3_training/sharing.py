"""A step's batch shared out: every part of it by a thread of its own, on the same weights, with gradients of its own.

Small matrices gain little from several threads each, and lose a lot where anything else wants the processor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
P = TypeVar("P")
Losses = Mapping[str, Tensor]  # "loss" is what is minimised


class Shared(Generic[M]):
    """`module` and copies of it that hold the same numbers in the same memory."""

    def __init__(self, module: M, parts: int) -> None:
        self.copies: list[M] = [module, *(copy.deepcopy(module) for _ in range(parts - 1))]
        for one in self.copies[1:]:
            for mine, theirs in zip(_tensors(one), _tensors(module), strict=True):
                mine.data = theirs.data
        self.pool = ThreadPoolExecutor(parts) if parts > 1 else None

    def gradients(self, parts: Sequence[P], losses: Callable[[M, P], Losses]) -> dict[str, float]:
        """Leaves the mean of the parts' gradients in the module's; gives the means of their losses.

        The same whether the parts run one after the other or at once: they are summed in their order.
        """

        def one(index: int) -> dict[str, float]:
            found = losses(self.copies[index], parts[index])
            found["loss"].backward()
            return {name: float(value.detach()) for name, value in found.items()}

        if self.pool is None:
            each = [one(index) for index in range(len(parts))]
        else:
            each = list(self.pool.map(one, range(len(parts))))
        with torch.no_grad():
            for p, *others in zip(*(one.parameters() for one in self.copies), strict=True):
                for other in others:
                    if other.grad is not None:
                        p.grad = other.grad if p.grad is None else p.grad.add_(other.grad)
                        other.grad = None
                if p.grad is not None:
                    p.grad /= len(parts)
        return {name: sum(one[name] for one in each) / len(each) for name in each[0]}


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
