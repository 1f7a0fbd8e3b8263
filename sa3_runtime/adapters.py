"""The adapters a pipeline has loaded: their strengths, and which of them work at a noise level."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa3_engines import adapters
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.engine import Adaptable, Engine
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_runtime.conditioning import Conditioner
from sa3_runtime.request import AdapterUse


@dataclass
class Loaded:
    """Strengths can be changed between generations."""

    adapter: Adapter
    path: Path
    strength: float = 1.0
    conditioner_strength: float = 1.0


class Adapters:
    def __init__(
        self,
        engine: Engine,
        conditioner: Conditioner | None,
        idle: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """idle: what changes are made within, which raises while a clip is made that they would reach half way."""
        self._idle = idle
        self._engine = engine
        self._conditioner = conditioner
        self._in_engine: tuple[Any, ...] | None = ()  # None: unknown, after a failure half way
        self.loaded: list[Loaded] = []

    def load(self, path: str | os.PathLike[str], strength: float = 1.0) -> int:
        given: Any = path  # what a caller passed, whatever the annotation says
        if not isinstance(given, str | os.PathLike):
            raise InvalidRequest(f"an adapter is {given!r}; the path of a .safetensors file was expected")
        if not isinstance(self._engine, Adaptable) or not self._engine.support.adapters or self._conditioner is None:
            raise BackendUnavailable(f"the {self._engine.support.backend} engine cannot run adapters on this model")
        path = Path(path)
        adapter = adapters.load(path)
        adapters.check_fits(adapter, {**self._engine.adaptable(), **self._conditioner.shapes})
        _check_strength(strength)
        with self._idle():
            self.loaded.append(Loaded(adapter, path, strength, strength))
            return len(self.loaded) - 1

    def clear(self) -> None:
        with self._idle():
            self.loaded.clear()
            self.use([])

    def set_strength(self, strength: float, index: int | None = None, target: str | None = None) -> None:
        """Of one adapter or all; of its part in the transformer ("dit"), the conditioners ("conditioner") or both."""
        if target not in (None, "dit", "conditioner"):
            raise InvalidRequest(f"target {target!r}; it is 'dit', 'conditioner' or None for both")
        _check_strength(strength)
        with self._idle():
            if index is not None:
                index = self._index(index)
            elif not self.loaded:
                raise InvalidRequest("no adapter is loaded")
            for one in self.loaded if index is None else [self.loaded[index]]:
                if target in (None, "dit"):
                    one.strength = strength
                if target in (None, "conditioner"):
                    one.conditioner_strength = strength

    def active(self, uses: Sequence[AdapterUse] | None, t: float) -> list[ActiveAdapter]:
        """Every adapter with the strength it has at noise level t. Conditioners do not depend on the level."""
        by_index = {self._index(use.index): use for use in uses or ()}
        active: list[ActiveAdapter] = []
        for index, one in enumerate(self.loaded):
            _check_strength(one.strength)  # which a caller may have set
            _check_strength(one.conditioner_strength)
            use = by_index.get(index, AdapterUse(index=index))
            works = use.interval[0] <= t <= use.interval[1]
            active.append(
                ActiveAdapter(
                    adapter=one.adapter,
                    strength=one.strength if works else 0.0,
                    conditioner_strength=one.conditioner_strength,
                    skip=adapters.layer_filter(use.skip_layers),
                )
            )
        return active

    def use(self, active: Sequence[ActiveAdapter]) -> bool:
        """Puts them into the engine; False when they are what is there already."""
        working = [a for a in active if a.strength]
        wanted = tuple((id(a.adapter), a.strength, a.skip) for a in working)
        if wanted == self._in_engine:
            return False
        assert isinstance(self._engine, Adaptable)
        self._in_engine = None
        self._engine.set_adapters(working)
        self._in_engine = wanted
        return True

    def _index(self, index: Any) -> int:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < len(self.loaded):
            raise InvalidRequest(f"no adapter {index!r}; {len(self.loaded)} are loaded, numbered from 0")
        return int(index)


def _check_strength(strength: Any) -> None:
    number = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
    if not number or not math.isfinite(strength):
        raise InvalidRequest(f"adapter strength {strength!r} is not a number")
