"""Engines that run exported graphs need a bundle; this finds the one of a model, or has it exported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sa3_engines import bundle, models, selection

PRECISION = "fp32"  # of the folder an export goes to when nothing is said


def source(opened: str, backend: str, precision: str) -> str:
    """What this backend opens for a model: the model itself, or its bundle where one was exported."""
    if backend == "auto" or selection.load(backend).why_not_open(models.locate(opened)) is None:
        return opened
    folder = _folder(opened, backend, precision)
    if not (folder / models.MANIFEST).is_file():
        return opened
    # Results are shown to others, and nobody's home folder belongs in them.
    home = Path.home()
    return f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else str(folder)


def export(opened: str, backend: str, precision: str, say: Callable[[str], None]) -> str | None:
    """Exports where that is what is missing. None when there is nothing left to do, else why it failed."""
    if source(opened, backend, precision) != opened or not importlib.util.find_spec("sa3_exporters.cli"):
        return None
    if selection.load(backend).why_not_open(models.locate(opened)) is None:
        return None
    say(f"exporting {opened} for {backend}")
    command = [sys.executable, "-m", "sa3_exporters.cli", "--model", opened, "--target", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()
    return (
        None if done.returncode == 0 else f"the export failed: {said[-1] if said else f'exit code {done.returncode}'}"
    )


def _folder(opened: str, backend: str, precision: str) -> Path:
    return bundle.default_folder(opened, backend, PRECISION if precision == "auto" else precision)
