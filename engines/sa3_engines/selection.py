"""Backends by name, and which one `auto` takes: the fastest for which a bundle was exported, by what was measured
then; else torch.

A backend is one file here whose `BACKEND` is registered under the file's name, or an installed entry point
(group `sa3.backends`). One that the user names works or raises; only `auto` tries the next, and says why.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from sa3_engines import choosing, tiers
from sa3_engines.engine import Backend, Engine, Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_engines.models import Source

HERE = ("onnx", "openvino")
FOR_TESTS = ("null",)
# Engines that run exported graphs come first: a bundle was exported to be run. Torch runs any checkpoint.
PREFERENCE = ("openvino", "onnx", "torch")


@dataclass(frozen=True)
class Choice:
    """What was opened, and why not what comes before it."""

    backend: str
    refused: tuple[str, ...]
    passed_over: tuple[str, ...] = ()  # those of them for which a bundle is there


@cache
def names() -> tuple[str, ...]:
    found = [*HERE, *(point.name for point in entry_points(group="sa3.backends"))]
    return tuple(sorted(set(found), key=lambda n: PREFERENCE.index(n) if n in PREFERENCE else len(PREFERENCE)))


def load(name: str) -> Backend:
    if name in HERE or name in FOR_TESTS:
        return cast("Backend", import_module(f"sa3_engines.{name}").BACKEND)
    for point in entry_points(group="sa3.backends", name=name):
        return cast("Backend", import_module(point.value).BACKEND)
    raise InvalidRequest(f"no backend {name!r}; choose from auto, {', '.join(names())}")


def open_engine(
    source: Source, backend: str = "auto", options: Options | None = None, *, needs: Collection[str] = ()
) -> tuple[Engine, Choice]:
    """needs: the graphs that will be run, where those are not all of the model's: a bundle that holds them will do."""
    options = options or Options()
    tiers.ask(options.precision)
    if backend != "auto":
        one = load(backend)
        reason = one.why_not(options.device) or one.why_not_open(source, options.precision)
        if reason:
            raise BackendUnavailable(f"backend {backend} cannot run {source.name}: {reason}")
        return one.open(source, options), Choice(backend, ())
    refused: list[str] = []
    passed_over: list[str] = []
    lacking = {name: choosing.lacks(source, name, options.precision, needs) for name in names()}

    def rank(name: str) -> tuple[bool, float]:
        """Sorting by it keeps the order of preference where nothing was measured."""
        return bool(lacking[name]), choosing.expected_seconds(source, name, options.precision, needs)

    order = sorted(names(), key=rank)
    for place, name in enumerate(order):
        one = load(name)
        reason = one.why_not(options.device) or one.why_not_open(source, options.precision)
        if reason is None:
            try:
                opened = one.open(source, options)
            except BackendUnavailable as e:  # a precision or device this one does not have
                reason = str(e)
            else:
                behind = [] if lacking[name] else [other for other in order[place:] if lacking[other]]
                partial = [f"{other}: its bundle has no graph {', '.join(lacking[other])}" for other in behind]
                return opened, Choice(name, (*refused, *partial), (*passed_over, *partial))
        refused.append(f"{name}: {reason}")
        if choosing.exported(source, name) is not None:
            passed_over.append(refused[-1])
    raise BackendUnavailable(f"no backend can run {source.name}: " + "; ".join(refused))
