"""Graphs by themselves: how long it takes until all are open."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sa3_bench import stages
from sa3_bench.cases import Case
from sa3_bench.observed import Observed
from sa3_engines import models, selection
from sa3_engines.engine import Inputs, Options, Outputs
from sa3_engines.null import NullEngine

WAIT = 0.1


class Late(NullEngine):
    """Opens a graph when it is first used, which takes a while."""

    def __init__(self) -> None:
        super().__init__(models.locate("nano").config)
        self.open: set[str] = set()

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        if graph not in self.open:
            time.sleep(WAIT)
            self.open.add(graph)
        return super().run(graph, inputs)


def test_graphs_that_open_late_are_loading_too():
    engine = Observed(Late())
    case = Case(model="nano", seconds=3.0, batch=2)
    assert stages.opening(engine, case) >= len(stages.GRAPHS) * WAIT * 0.9
    assert stages.opening(engine, case) < WAIT


@pytest.fixture
def nano() -> Iterator[Observed]:
    engine, _ = selection.open_engine(models.locate("nano"), "onnx", Options(threads=1))
    yield Observed(engine)
    engine.close()


def test_a_real_engine_opens_its_graphs(nano: Observed):
    case = Case(model="nano", seconds=3.0)
    first, second = stages.opening(nano, case), stages.opening(nano, case)
    assert second < first / 2
