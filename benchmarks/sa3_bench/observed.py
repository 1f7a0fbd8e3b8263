"""An engine that is watched, and the tokenizer that goes with a model whose sound nobody listens to."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from sa3_bench import memory, work
from sa3_engines import models
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Engine, Inputs, Outputs, Support, open_ahead
from sa3_runtime.tokens import StandInTokenizer, Tokenizer, tokenizer_for


@dataclass(frozen=True)
class Call:
    """One graph that was run."""

    graph: str
    seconds: float
    sizes: Mapping[str, int]


class Observed:
    """An engine that notes what is run and how long it takes. On a device it waits for each graph to be done."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: list[Call] = []
        self._device = memory.Device(engine.support.device)
        self._prepared: Mapping[str, int] = {}

    @property
    def config(self) -> ModelConfig:
        return self.engine.config

    @property
    def support(self) -> Support:
        return self.engine.support

    def constants(self) -> Mapping[str, np.ndarray]:
        return self.engine.constants()

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        sizes = work.sizes(graph, inputs, self._prepared)
        start = time.perf_counter()
        outputs = self.engine.run(graph, inputs)
        self._device.settle()
        self.calls.append(Call(graph, time.perf_counter() - start, sizes))
        if graph == "prepare":
            self._prepared = sizes
        return outputs

    def open_ahead(self, graphs: Collection[str]) -> None:
        open_ahead(self.engine, *graphs)

    def close(self) -> None:
        self.engine.close()


def tokenizer_of(source: models.Source) -> Tokenizer | None:
    """The model's own. Exported random weights have none, and speed does not depend on which ids these are."""
    text = source.config.text
    return tokenizer_for(source) or (None if text is None else StandInTokenizer(text.vocab_size))
