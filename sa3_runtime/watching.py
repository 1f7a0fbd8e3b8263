"""What a caller sees of work under way: how far it is, a way to stop it, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sa3_engines.errors import Cancelled, InvalidRequest

Array = np.ndarray


@dataclass(frozen=True)
class Progress:
    """Where a generation is: stages are text, encode, sample, decode."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a caller may hang on a running generation. Cancelling takes effect before the next graph runs."""

    progress: Callable[[Progress], None] | None = None
    cancelled: Callable[[], bool] | None = None
    step: Callable[[int, Array, Array], None] | None = None  # index, levels (items,), the state before that step

    def __post_init__(self) -> None:
        for name in ("progress", "cancelled", "step"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise InvalidRequest(f"{name} of a Watch is {getattr(self, name)!r}; a function was expected")

    def check(self, stage: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled(f"cancelled during {stage}")

    def at(self, stage: str, done: int, total: int) -> None:
        self.check(stage)
        if self.progress is not None:
            self.progress(Progress(stage, done, total))


def watched(watch: Any) -> Watch:
    if not isinstance(watch, Watch | None):
        raise InvalidRequest(f"watch is {watch!r}; a Watch was expected, such as Watch(progress=...)")
    return watch or Watch()


@dataclass
class Clock:
    spent: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def measure(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - start
