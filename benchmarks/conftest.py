"""The same cases as `sa3-bench table`, under pytest-benchmark, in one process: memory and cold loads are the table's.

pytest benchmarks/ --sa3-models nano,random:small-music --sa3-durations 5,30 --sa3-backends torch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from sa3_bench import cases, measure, observed
from sa3_bench.cases import Case
from sa3_engines import selection
from sa3_engines.errors import BackendUnavailable
from sa3_runtime.pipeline import Pipeline

GROUP = "Stable Audio 3 benchmarks"
Opened = tuple[Pipeline, observed.Observed]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(GROUP)
    group.addoption("--sa3-models", default="nano", help="names, folders, random:NAME (nano)")
    group.addoption("--sa3-durations", default="5", help="seconds (5)")
    group.addoption("--sa3-batches", default="1", help="items at once (1)")
    group.addoption("--sa3-backends", default="", help="engines (all that can run here)")
    group.addoption("--sa3-precision", default="auto", help="tiers (each engine's own)")
    group.addoption("--sa3-threads", type=int, help="processor threads (all cores)")
    group.addoption("--sa3-rounds", type=int, default=5, help="timed runs (5)")


def _cases(config: pytest.Config) -> list[Case]:
    def words(option: str) -> list[str]:
        return [word for word in config.getoption(option).split(",") if word]

    backends = words("--sa3-backends") or [one for one in selection.names() if selection.load(one).why_not() is None]
    found: list[Case] = []
    for model in map(cases.resolve, words("--sa3-models")):
        lengths = cases.lengths(model, [float(word) for word in words("--sa3-durations")])
        for backend, precision, seconds, batch in product(
            backends, words("--sa3-precision"), lengths, words("--sa3-batches")
        ):
            found.append(
                Case(
                    model=model.name,
                    weights=model.weights,
                    source=model.source,
                    seconds=seconds,
                    batch=int(batch),
                    backend=backend,
                    precision=precision,
                    threads=config.getoption("--sa3-threads"),
                )
            )
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        found = _cases(metafunc.config)
        names = [f"{c.model}-{c.seconds:g}s-x{c.batch}-{c.backend}-{c.precision}" for c in found]
        metafunc.parametrize("case", found, ids=names, scope="session")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--sa3-rounds")


@pytest.fixture(scope="session")
def opened() -> Iterator[Callable[[Case], Opened]]:
    """Opens the engine of a case; only the last one stays open."""
    held: dict[str, Opened] = {}

    def get(case: Case) -> Opened:
        key = f"{case.opened} {case.engine}"
        if key not in held:
            for pipeline, _ in held.values():
                pipeline.close()
            held.clear()
            try:
                held[key] = measure.open_pipeline(case)
            except BackendUnavailable as e:
                pytest.skip(str(e))
        return held[key]

    yield get
    for pipeline, _ in held.values():
        pipeline.close()
