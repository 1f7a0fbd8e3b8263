"""What an export is asked for, looked at before torch is imported: a slip is told at once, not after seconds.

`build` asks the same here, since it has callers besides the command.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sa3_engines import advice, models, processor, tiers
from sa3_engines.bundle import Profile
from sa3_engines.config import ModelConfig
from sa3_engines.engine import CODEC, GRAPHS
from sa3_engines.errors import BackendUnavailable, InvalidRequest, ModelNotFound, OutputError
from sa3_engines.models import MANIFEST, Source


def check_words(precision: Sequence[str], graphs: Sequence[str]) -> None:
    """What can be told without the model."""
    if not precision:
        raise InvalidRequest(f"no precision is asked for; choose from auto, {', '.join(tiers.TIERS)}")
    for word in precision:
        tiers.ask(word)
    _known(graphs, GRAPHS, "a model")
    if "step" in graphs and "prepare" not in graphs:
        raise InvalidRequest("step needs what prepare gives; export both: --graphs prepare,step")


def check_seconds(*seconds: float | None) -> None:
    for one in seconds:
        if one is not None and not (one >= 0 and math.isfinite(one)):
            raise InvalidRequest(f"{one:g} s is no duration; --min-, --opt- and --max-seconds are numbers from 0")


def check_made(target: str, precision: Sequence[str]) -> None:
    """That this machine makes the tiers that are named. Number types depend on the model too."""
    for word in precision:
        if word in tiers.TIERS and (reason := advice.why_not(target, word, processor.flags())):
            raise BackendUnavailable(f"target {target} cannot make precision {word} here: {reason}")


def check_model(source: Source, graphs: Sequence[str]) -> None:
    _known(graphs, GRAPHS if source.config.dit is not None else CODEC, source.name)


def _known(graphs: Sequence[str], has: Sequence[str], whose: str) -> None:
    if unknown := [graph for graph in graphs if graph not in has]:
        raise InvalidRequest(f"{whose} has no graph {unknown[0]!r}; it has {', '.join(has)}")


def check_profile(asked: Profile, name: str, config: ModelConfig) -> None:
    low, usual, high = asked.min_seconds, asked.opt_seconds, asked.max_seconds
    check_seconds(low, usual, high)
    longest = config.longest_seconds
    if (most := max(low, usual, high)) > longest:
        raise InvalidRequest(f"{name} was made for {longest:g} s at most, and {most:g} were asked")
    if not high:
        raise InvalidRequest("--max-seconds 0 leaves no duration to export for")
    for first, second, right in (
        (f"--min-seconds {low:g}", f"--max-seconds {high:g}", low <= high),
        (f"--min-seconds {low:g}", f"--opt-seconds {usual:g}", low <= usual),
        (f"--opt-seconds {usual:g}", f"--max-seconds {high:g}", usual <= high),
    ):
        if not right:
            raise InvalidRequest(f"{first} is longer than {second}")


def check_out(out: Path, source: Source) -> None:
    """That it is none of somebody else's; into the model's own folder graphs may go."""
    try:
        if out.is_mount():  # as a container's volume: neither may it be renamed, nor is what lies beside it on its disk
            raise OutputError(
                f"{out} is a mount point, and an export is made beside its folder and takes its place; choose a folder "
                "inside it with --out"
            )
        if source.folder is not None and out.exists() and out.samefile(source.folder):
            return
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file; an export is a folder")
        if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
            raise OutputError(f"{out} holds something else than a bundle and is left alone; choose another --out")
    except OSError as e:
        raise OutputError(f"{out} cannot be looked at: {e.strerror or e}") from e


def bundle_folder(model: str, target: str, out: Path | None) -> Path:
    try:
        return (out or models.bundle_folder(model, target)).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as e:  # nobody's home, links in a circle, a NUL
        if out is None:
            raise ModelNotFound(f"no model {model!r}: it is no folder's name") from e
        raise OutputError(f"{str(out)!r} is no folder's name") from e
