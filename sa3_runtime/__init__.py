"""Prompt to finished audio, in numpy. No torch, no HTTP."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # `typing` takes milliseconds, in which Ctrl-C is not answered yet
if TYPE_CHECKING:
    from typing import Any

    from sa3_engines.errors import Sa3Error
    from sa3_runtime.audio import Sound
    from sa3_runtime.coding import Chunking
    from sa3_runtime.finish import Finish
    from sa3_runtime.generation import Generation
    from sa3_runtime.pipeline import Pipeline
    from sa3_runtime.request import AdapterUse, Request
    from sa3_runtime.watching import Progress, Watch

    __version__: str

__all__ = [
    "AdapterUse",
    "Chunking",
    "Finish",
    "Generation",
    "Pipeline",
    "Progress",
    "Request",
    "Sa3Error",
    "Sound",
    "Watch",
    "__version__",
]

_HOMES = {
    "AdapterUse": "sa3_runtime.request",
    "Chunking": "sa3_runtime.coding",
    "Finish": "sa3_runtime.finish",
    "Generation": "sa3_runtime.generation",
    "Pipeline": "sa3_runtime.pipeline",
    "Progress": "sa3_runtime.watching",
    "Request": "sa3_runtime.request",
    "Sa3Error": "sa3_engines.errors",
    "Sound": "sa3_runtime.audio",
    "Watch": "sa3_runtime.watching",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sa3-runtime")
    # Commands must answer at once, so nothing is imported before it is asked for.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
