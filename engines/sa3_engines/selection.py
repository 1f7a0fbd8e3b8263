"""Backends by name, and which one `auto` takes: the fastest for which a bundle was exported, by what was measured
then; else torch.

A backend is one file here whose `BACKEND` is registered under the file's name, or an installed entry point
(group `sa3.backends`). One that the user names works or raises; only `auto` tries the next, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from sa3_engines import bundle, tiers
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


def open_engine(source: Source, backend: str = "auto", options: Options | None = None) -> tuple[Engine, Choice]:
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

    def rank(name: str) -> tuple[bool, float]:
        """Sorting by it keeps the order of preference where nothing was measured."""
        whole = bundle.is_whole(source, name, options.precision)
        return not whole, bundle.expected_seconds(source, name, options.precision)

    for name in sorted(names(), key=rank):
        one = load(name)
        reason = one.why_not(options.device) or one.why_not_open(source, options.precision)
        if reason is None:
            try:
                return one.open(source, options), Choice(name, tuple(refused), tuple(passed_over))
            except BackendUnavailable as e:  # a precision or device this one does not have
                reason = str(e)
        refused.append(f"{name}: {reason}")
        if bundle.exported(source, name) is not None:
            passed_over.append(refused[-1])
    raise BackendUnavailable(f"no backend can run {source.name}: " + "; ".join(refused))
