"""End to end, the stages one by one, and the load. What is timed: `sa3-bench --help`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sa3_bench import measure, stages
from sa3_bench.cases import Case
from sa3_engines.engine import GRAPHS
from sa3_engines.errors import BackendUnavailable


def test_generate(benchmark: Any, case: Case, opened: Callable[[Case], Any], rounds: int):
    """One warm request, string to host array, checked for its number of samples. Load and files are not in it."""
    pipeline, observed = opened(case)
    measure.timed(pipeline, observed, case, steps=2)
    one = benchmark.pedantic(measure.timed, args=(pipeline, observed, case), rounds=rounds)
    benchmark.extra_info |= {
        "case": case.as_json(),
        "support": measure.described(observed.support),
        "times_real_time": case.seconds * case.batch / one.seconds,
        "first_audio": one.first_audio,
        "stages": dict(one.generation.seconds_spent),
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_stage(benchmark: Any, case: Case, opened: Callable[[Case], Any], rounds: int, graph: str):
    """One run of one graph at the size of the case, arrays in, arrays out."""
    _, observed = opened(case)
    inputs = stages.inputs(observed, case, graph)
    observed.run(graph, inputs)
    benchmark.pedantic(observed.run, args=(graph, inputs), rounds=rounds)
    benchmark.extra_info |= {"case": case.as_json(), "work": stages.work_of(observed)}


def test_load(benchmark: Any, case: Case, rounds: int):
    """A second load in one process: imports done, files in the page cache."""

    def load() -> None:
        pipeline, _ = measure.open_pipeline(case)
        pipeline.close()

    try:
        load()
    except BackendUnavailable as e:
        pytest.skip(str(e))
    benchmark.pedantic(load, rounds=min(rounds, 3))
