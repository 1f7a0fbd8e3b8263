"""Opens graphs beside other work, for engines whose runtime keeps one core busy for seconds with each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from sa3_engines import console

T = TypeVar("T")
TOGETHER = 2  # graphs at a time: what others do is a third, and memory for each is needed at once


class Ahead(Generic[T]):
    """What was begun and not asked for yet."""

    def __init__(self) -> None:
        self._begun: dict[str, Future[T]] = {}

    def begin(self, graphs: Iterable[str], opened: Callable[[str], T]) -> None:
        wanted = [graph for graph in graphs if graph not in self._begun]
        if not wanted:
            return
        pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix=console.THREADS)
        with contextlib.suppress(RuntimeError):  # no new threads once the interpreter has begun to end
            for graph in wanted:
                self._begun[graph] = pool.submit(opened, graph)
        pool.shutdown(wait=False)  # threads end with what they were given

    def take(self, graph: str) -> T | None:
        """The graph, as soon as it is open. None: it is to be opened now, as nobody has begun with it, or in vain. What
        was wrong then, maybe in an earlier request, need not be wrong any more.
        """
        begun = self._begun.pop(graph, None)
        return None if begun is None or begun.cancel() or begun.exception() is not None else begun.result()

    def drop(self, graphs: Iterable[str]) -> None:
        """As if nobody had asked. What is under way cannot be stopped and is waited for: two of a graph would be in
        memory.
        """
        for graph in graphs:
            begun = self._begun.pop(graph, None)
            if begun is not None and not begun.cancel():
                begun.exception()

    def drop_all(self) -> None:
        for begun in self._begun.values():  # none shall start while another is waited for
            begun.cancel()
        self.drop([*self._begun])
