"""Graphs that are opened beside other work: each once, and what went wrong is tried again by who asks for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sa3_engines.ahead import TOGETHER, Ahead

WAIT = 10  # seconds; nothing here takes as long


class Slow:
    """Opens graphs that wait until they may be ready."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.started = threading.Semaphore(0)
        self.may = threading.Event()

    def __call__(self, graph: str) -> str:
        self.begun.append(graph)
        self.started.release()
        assert self.may.wait(WAIT)
        return graph.upper()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.started.acquire(timeout=WAIT)


def test_what_was_begun_is_taken_once():
    slow = Slow()
    ahead = Ahead[str]()
    slow.may.set()
    ahead.begin(["step"], slow)
    slow.wait_for(1)
    assert ahead.take("step") == "STEP"
    assert ahead.take("step") is None and ahead.take("text") is None
    assert slow.begun == ["step"]


def test_nothing_is_begun_twice():
    slow = Slow()
    ahead = Ahead[str]()
    ahead.begin(["step", "decode"], slow)
    slow.wait_for(2)
    ahead.begin(["decode", "step"], slow)
    slow.may.set()
    assert [ahead.take(graph) for graph in ("step", "decode")] == ["STEP", "DECODE"]
    assert sorted(slow.begun) == ["decode", "step"]


def test_what_still_waits_for_its_turn_is_the_askers_to_open():
    slow = Slow()
    ahead = Ahead[str]()
    ahead.begin(["step", "encode", "prepare"], slow)
    slow.wait_for(TOGETHER)
    assert ahead.take("prepare") is None
    slow.may.set()
    assert ahead.take("step") == "STEP"
    assert "prepare" not in slow.begun


def test_what_went_wrong_is_the_askers_to_try_again():
    """Its cause may be gone by then: an earlier request's, for which it was begun."""
    started = threading.Semaphore(0)

    def fails(graph: str) -> str:
        started.release()
        raise ValueError(f"{graph} is broken")

    ahead = Ahead[str]()
    ahead.begin(["step", "decode"], fails)
    for _ in range(2):
        assert started.acquire(timeout=WAIT)
    assert ahead.take("step") is None
    ahead.drop(["decode"])
    ahead.begin(["step"], fails)
    assert started.acquire(timeout=WAIT), "it is begun anew"
    assert ahead.take("step") is None


def test_nothing_is_begun_once_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch):
    def ending(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", ending)
    ahead = Ahead[str]()
    ahead.begin(["step"], str.upper)
    assert ahead.take("step") is None


def test_dropping_waits_for_what_is_under_way_and_lets_nothing_else_begin():
    slow = Slow()
    ahead = Ahead[str]()
    ahead.begin(["step", "encode", "prepare"], slow)
    slow.wait_for(TOGETHER)
    threading.Timer(0.1, slow.may.set).start()
    ahead.drop_all()
    assert slow.may.is_set() and sorted(slow.begun) == ["encode", "step"]
    assert ahead.take("step") is None


def test_one_of_several_is_dropped():
    slow = Slow()
    ahead = Ahead[str]()
    ahead.begin(["step", "encode"], slow)
    slow.wait_for(2)
    slow.may.set()
    ahead.drop(["encode", "decode"])
    assert ahead.take("encode") is None and ahead.take("step") == "STEP"
