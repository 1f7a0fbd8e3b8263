"""Stable Audio 3 in PyTorch, with the Python interface existing scripts use. Importing it alone imports no torch."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes milliseconds, in which Ctrl-C is not answered yet
if TYPE_CHECKING:
    from typing import Any

    from stable_audio_3.api import AutoencoderModel as AutoencoderModel
    from stable_audio_3.api import StableAudioModel as StableAudioModel

    __version__: str

__all__ = ["AutoencoderModel", "StableAudioModel", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sa3-runtime")
    if name in __all__:
        from stable_audio_3 import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
