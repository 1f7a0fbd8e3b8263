"""The models known by name, and which are on this machine. Asks nothing of the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sa3_engines import models
from sa3_engines.errors import Sa3Error

LICENCE = (
    "nano comes with this package, under its licence. The other weights are Stability AI's, under its Community "
    "License, and their text encoder is under the Gemma terms; gated ones are downloaded once those are accepted at "
    "huggingface.co."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    aliases: list[str]
    repo: str | None  # None: inside this package
    about: str
    max_seconds: int | None  # None: no sound from a prompt
    gated: bool
    here: bool  # on this machine: nothing is downloaded
    folder: str | None


def entries() -> list[Entry]:
    return [_nano(), *(_released(one) for one in models.RELEASED.values())]


def _nano() -> Entry:
    try:
        source = models.locate("nano")
    except Sa3Error as e:
        about, seconds, folder = f"missing from this installation: {e}", None, None
    else:
        about = "the default: tiny, in this package" + (
            "" if source.trained else "; its weights are random until it is trained"
        )
        seconds, folder = int(source.config.longest_seconds), str(source.folder)
    return Entry(
        name="nano",
        aliases=[],
        repo=None,
        about=about,
        max_seconds=seconds,
        gated=False,
        here=folder is not None,
        folder=folder,
    )


def _released(one: models.Released) -> Entry:
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(one.repo, models.WEIGHTS)
    folder = str(Path(weights).parent) if isinstance(weights, str) else None
    return Entry(
        name=one.name,
        aliases=[alias for alias, name in models.ALIASES.items() if name == one.name],
        repo=one.repo,
        about=one.about,
        max_seconds=one.seconds or None,
        gated=one.gated,
        here=folder is not None,
        folder=folder,
    )
