"""What tests share: the miniature golden models, opened once, with a tokenizer of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Two cores and tiny arrays: threads of numpy's own cost more than they save, and wait for torch's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import ONNX Runtime themselves

from sa3_engines import models, selection
from sa3_engines.engine import Options
from sa3_runtime.pipeline import Pipeline

# The same examples every time: a failure can be run again.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")

GOLDEN = Path(__file__).parent / "golden"
TINY = ("tiny-small", "tiny-medium")


class Words:
    """A tokenizer for the golden models, which bring none: an id per word, from its letters."""

    def ids(self, prompt: str) -> list[int]:
        return [1 + sum(map(ord, word)) % 200 for word in prompt.split()]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody exported on this machine is found by a model's name, and must not be found here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A run in a shell's background ignores Ctrl-C, and so would the commands that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session", params=TINY)
def tiny(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """Both miniatures (plain and differential attention, chunked and sliding window) on the torch engine."""
    yield from _open(request.param, "torch")


@pytest.fixture(scope="session")
def small() -> Iterator[Pipeline]:
    yield from _open("tiny-small", "torch")


@pytest.fixture
def null() -> Iterator[Pipeline]:
    """The small miniature's configuration on an engine that computes nothing."""
    yield from _open("tiny-small", "null")


def _open(name: str, backend: str) -> Iterator[Pipeline]:
    source = models.from_folder(GOLDEN / name)
    # One thread: the models are tiny, and waiting for a second one costs more than it saves.
    engine, choice = selection.open_engine(source, backend, Options(threads=1))
    with Pipeline(engine, source, Words(), choice) as pipeline:
        yield pipeline
