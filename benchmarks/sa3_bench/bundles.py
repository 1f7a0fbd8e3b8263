"""Engines that run exported graphs need a bundle; this has it exported, and says which tiers it holds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence

from sa3_engines import bundle, choosing, models, processor, tiers
from sa3_engines.errors import BackendUnavailable


def export(opened: str, backend: str, precisions: Sequence[str], say: Callable[[str], None]) -> str | None:
    """Exports where that is what is missing. None when there is nothing left to do, else why it failed."""
    if backend not in models.TARGETS or not importlib.util.find_spec("sa3_exporters.cli"):
        return None
    if choosing.of(models.locate(opened), backend) is not None:
        return None
    say(f"exporting {opened} for {backend}")
    wanted = [one for one in precisions if one != "auto"]
    command = [sys.executable, "-m", "sa3_exporters.cli", "--model", opened, "--target", backend]
    command += ["--precision", ",".join(["auto", *wanted])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()
    return (
        None if done.returncode == 0 else f"the export failed: {said[-1] if said else f'exit code {done.returncode}'}"
    )


def why_not(opened: str, backend: str, precision: str) -> str | None:
    """None where an engine can be asked for a precision: bundles hold some tiers, torch knows number types."""
    if precision == "auto":
        return None
    if backend == "torch":
        return "tiers below exact are for exported bundles" if precision in tiers.TIERS[1:] else None
    source = models.locate(opened)
    folder = choosing.of(source, backend, precision)
    if folder is None:
        return None  # opening says so
    try:
        choosing.choose(bundle.load(folder), precision, processor.flags())
    except BackendUnavailable as e:
        return str(e)
    return None
