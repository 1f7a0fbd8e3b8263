"""What a bundle was made by: it tells whether it is still what would be made now, or holds graphs that would.

Two digests are in a manifest. `recipe` is of all code and every choice that decide what is in a bundle and what is said
about it. `traced` is of the code alone that decides what an exact ONNX graph is: such a graph serves every bundle of
the same weights, whatever it is compared by.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import stable_audio_3.networks
from sa3_engines import bundle, models, tiers
from sa3_engines.errors import BundleError
from sa3_engines.models import MANIFEST, Source
from sa3_exporters import onnx, placing
from sa3_exporters.watch import Watch

TOOLS = ("sa3-runtime", "torch")  # whatever the target
TRACERS = ("torch", "onnx", "onnxscript")


def digest(sources: Iterable[Path], choices: str = "") -> str:
    """Of the networks, of further files, and of what was chosen."""
    networks = Path(stable_audio_3.networks.__path__[0])
    paths = [*sources, *sorted(networks.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths) + choices.encode()).hexdigest()[:16]


def traced() -> str:
    return digest(onnx.TRACES)


def versions(names: Iterable[str]) -> dict[str, str]:
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def known(source: Source, out: Path, watch: Watch) -> dict[str, Path]:
    """Exact graphs that another bundle of the model holds: of these weights, and as they would be traced here."""
    usual = (models.bundle_folder(source.name, target) for target in models.TARGETS)
    for folder in dict.fromkeys((source.folder, out, *usual)):
        if folder is None or not (folder / MANIFEST).is_file():
            continue
        with contextlib.suppress(BundleError):
            found = bundle.load(folder)
            # What is cheap to compare comes first: weights are hashed whole.
            if found.traced != traced() or _tracers(found.built_with) != _tracers(versions(TRACERS)):
                continue
            if found.source.digest != placing.digest(source):
                continue
            exact = bundle.read(folder).tiers.get(tiers.EXACT)
            graphs = {name: folder / graph.file for name, graph in exact.graphs.items()} if exact else {}
            if graphs and all(path.suffix == ".onnx" for path in graphs.values()):
                watch.note(f"exact graphs are those of {folder}; --force traces them again")
                return graphs
    return {}


def _tracers(found: Mapping[str, str]) -> list[str]:
    """Their releases: for which device a build of one is makes no difference to a graph."""
    return [found.get(name, "").partition("+")[0] for name in TRACERS]
