"""From a model to a bundle: weights placed, graphs converted, each compared with the torch engine, then published.

Everything happens in a folder beside the target, which is renamed when it is complete: nobody ever sees half a bundle.
Weights are hard links where the file system allows. Exporting into the checkpoint's own folder only adds graphs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import stable_audio_3.networks
from sa3_engines import bundle, config, models
from sa3_engines.bundle import Bundle, Graph, Origin
from sa3_engines.engine import GRAPHS, Options
from sa3_engines.errors import BundleError, CheckpointError, InvalidRequest, OutputError
from sa3_engines.models import CONFIG, MANIFEST, RANDOM, TEXT_FILES, WEIGHTS, Source
from sa3_engines.onnx import BACKEND, OnnxEngine
from sa3_engines.tensors import TensorFile
from sa3_exporters import onnx, parity
from sa3_exporters.onnx import Weight
from stable_audio_3 import checkpoint, random_weights
from stable_audio_3.engine import BACKEND as TORCH

NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*")
TOOLS = ("sa3-runtime", "torch", "onnx", "onnxscript", "onnxruntime")
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is to be made of what, and where."""

    source: Source
    out: Path
    target: str = "onnx"
    precision: str = "fp32"

    @property
    def in_place(self) -> bool:
        folder = self.source.folder
        return folder is not None and self.out.exists() and self.out.samefile(folder)

    @property
    def graphs(self) -> tuple[str, ...]:
        return GRAPHS if self.source.config.dit is not None else ("encode", "decode")


@dataclass(frozen=True)
class Built:
    bundle: Bundle
    seconds: Mapping[str, float]  # per graph, conversion and comparison


def check_target(recipe: Recipe) -> None:
    """Refuses, whatever is asked, to replace what is not a bundle."""
    if recipe.in_place:
        _check_in_place(recipe.source)
    elif recipe.out.exists() and not recipe.out.is_dir():
        raise OutputError(f"{recipe.out} is a file; an export is a folder")
    elif recipe.out.is_dir() and any(recipe.out.iterdir()) and not (recipe.out / MANIFEST).is_file():
        raise OutputError(f"{recipe.out} holds something else than a bundle and is left alone; choose another --out")


def _check_in_place(source: Source) -> None:
    assert source.folder is not None
    folder = source.folder.resolve()
    if source.config.dit is None and config.is_full(models.read_json(source.folder / CONFIG)):
        raise InvalidRequest(f"{source.name} is a part of {folder}; choose another folder with --out")
    for name, path in files(source).items():
        # ONNX Runtime refuses weights that a link leads to outside of the graphs' folder.
        if path != source.folder / name or not path.resolve().is_relative_to(folder):
            raise InvalidRequest(
                f"{folder}: {name} lies elsewhere ({path.resolve()}); choose another folder with --out"
            )


def files(source: Source) -> dict[str, Path]:
    """A checkpoint's files: their names in the bundle, and where they are. Empty for random weights."""
    if source.folder is None:
        return {}
    found = {name: source.folder / name for name in (CONFIG, WEIGHTS)}
    if source.config.text is not None and source.text_folder is not None:
        found |= {f"{source.config.text.folder}/{name}": source.text_folder / name for name in TEXT_FILES}
        if source.tokenizer is None:
            del found[f"{source.config.text.folder}/tokenizer.json"]
    for pattern in NOTICES:
        found |= {path.name: path for path in source.folder.glob(pattern) if path.is_file()}
    for path in found.values():
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
    return found


def is_current(recipe: Recipe) -> bool:
    """By what went in, never because a file exists."""
    try:
        found = bundle.read(recipe.out)
    except BundleError:
        return False
    same = (found.target, found.precision, found.recipe) == (recipe.target, recipe.precision, code_digest())
    return same and found.source.digest == digest(recipe.source)


def digest(source: Source) -> str:
    """Of everything an export is made from."""
    if source.seed is not None:
        made_by = Path(random_weights.__file__).read_text("utf-8")
        text = json.dumps([source.name, source.seed, source.config.raw, source.config.raw_text, made_by], default=str)
    else:
        text = "".join(f"{name} {bundle.sha256(path)}\n" for name, path in sorted(files(source).items()))
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest() -> str:
    """Of the code that decides what is in a graph."""
    networks = Path(stable_audio_3.networks.__path__[0])
    paths = [Path(onnx.__file__), *sorted(networks.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def build(recipe: Recipe, report: Report) -> Built:
    with _staging(recipe.out) as folder:
        report(f"placing weights of {recipe.source.name}")
        origin = Origin(
            model=recipe.source.name,
            repo=recipe.source.repo,
            revision=recipe.source.revision,
            digest=digest(recipe.source),
        )
        place(recipe.source, folder)
        staged = models.from_folder(folder, name=recipe.source.name)
        seconds = _convert(recipe, staged, report)
        graphs = _compare(recipe, staged, seconds, report)
        report("hashing")
        found = Bundle(
            model=recipe.source.name,
            target=recipe.target,
            backends=("onnx",),
            precision=recipe.precision,
            source=origin,
            built_with={name: version(name) for name in TOOLS},
            graphs=graphs,
            files=bundle.describe(folder, _names(folder)),
            licence=licence(recipe.source),
            recipe=code_digest(),
        )
        bundle.write(folder, found)
        _publish(recipe, folder, found)
    return Built(bundle.read(recipe.out), seconds)


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def _staging(out: Path) -> Generator[Path]:
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as e:
        reason = "the disk is full" if e.errno == errno.ENOSPC else e.strerror or str(e)
        raise OutputError(f"cannot write {out}: {reason}") from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(source: Source, folder: Path) -> None:
    if source.seed is not None:
        _write_random(source, folder)
        return
    for name, path in files(source).items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)
    if source.config.dit is None and config.is_full(models.read_json(folder / CONFIG)):
        # An autoencoder taken out of a full checkpoint: the bundle says that it is no more than that.
        (folder / CONFIG).unlink()
        _write_json(folder / CONFIG, _autoencoder_alone(source.config.raw))


def _autoencoder_alone(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in ("sample_rate", "sample_size", "audio_channels") if key in raw}
    return {"model_type": "autoencoder", **kept, "model": raw["model"]["pretransform"]["config"]}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def _write_random(source: Source, folder: Path) -> None:
    from safetensors.torch import save_file

    networks = checkpoint.load(source)
    _write_json(folder / CONFIG, dict(source.config.raw) | {RANDOM: source.seed})
    if source.config.text is not None:
        (folder / source.config.text.folder).mkdir()
        _write_json(folder / source.config.text.folder / "config.json", dict(source.config.raw_text))
    tensors: dict[Path, dict[str, torch.Tensor]] = {}
    for prefix, part in networks.parts():
        inside = source.config.text.folder if source.config.text and prefix == checkpoint.TEXT else ""
        place = tensors.setdefault(folder / inside / WEIGHTS, {})
        place |= {prefix + key: tensor.contiguous() for key, tensor in part.state_dict().items()}
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)


def _convert(recipe: Recipe, staged: Source, report: Report) -> dict[str, float]:
    assert staged.folder is not None
    with torch.device("meta"):
        networks = checkpoint.build(staged.config)
    weights = _weights(staged.folder, staged.config.text.folder if staged.config.text else None)
    seconds: dict[str, float] = {}
    for graph in recipe.graphs:
        report(f"converting {graph}")
        started = time.perf_counter()
        onnx.convert(graph, networks, staged.config, weights, staged.folder)
        seconds[graph] = time.perf_counter() - started
    return seconds


def _weights(folder: Path, text_folder: str | None) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    for location in [WEIGHTS, *([f"{text_folder}/{WEIGHTS}"] if text_folder else [])]:
        stored = TensorFile(folder / location).tensors
        found |= {name: Weight(location, tensor) for name, tensor in stored.items()}
    return found


def _compare(recipe: Recipe, staged: Source, seconds: dict[str, float], report: Report) -> dict[str, Graph]:
    """One graph at a time, each with its own engine, so that no more than one is in memory beside the reference."""
    assert staged.folder is not None
    paths = {graph: staged.folder / f"{graph}.onnx" for graph in recipe.graphs}
    reference = TORCH.open(staged, Options(device="cpu", precision="fp32"))
    found: dict[str, Graph] = {}
    try:
        for graph, path in paths.items():
            report(f"comparing {graph} with the torch engine")
            started = time.perf_counter()
            candidate = OnnxEngine(staged.config, paths, versions=BACKEND.versions())
            try:
                result = parity.compare(graph, reference, candidate, recipe.precision)
            finally:
                candidate.close()
            seconds[graph] += time.perf_counter() - started
            found[graph] = Graph(
                file=path.name,
                sha256=bundle.sha256(path),
                parity_db=round(result.snr_db, 2),
                relative_error=float(f"{result.relative_error:.3g}"),
                sizes=result.sizes,
            )
    finally:
        reference.close()
    return found


def _publish(recipe: Recipe, folder: Path, found: Bundle) -> None:
    if recipe.in_place:
        # The manifest goes first and comes last: between the two the folder is a checkpoint and no bundle.
        (recipe.out / MANIFEST).unlink(missing_ok=True)
        for graph in found.graphs.values():
            (folder / graph.file).replace(recipe.out / graph.file)
        (folder / MANIFEST).replace(recipe.out / MANIFEST)
        return
    replaced = folder.with_suffix(".old")
    if recipe.out.exists():
        recipe.out.rename(replaced)
    try:
        folder.rename(recipe.out)
    except BaseException:
        if replaced.exists():
            replaced.rename(recipe.out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def licence(source: Source) -> str:
    """What whoever receives the bundle has to know."""
    if source.seed is not None or source.name == "nano":
        return "Random weights made by this project; MIT, like its code."
    if source.repo and source.repo.startswith("stabilityai/"):
        text = " Text encoder: Gemma Terms of Use (https://ai.google.dev/gemma/terms)." if source.config.text else ""
        return (
            f"Converted from https://huggingface.co/{source.repo}. "
            f"Weights: Stability AI Community License (https://stability.ai/license).{text}"
        )
    where = f"https://huggingface.co/{source.repo}" if source.repo else source.name
    return f"Converted from {where}; the licence of those weights applies."


def describe(recipe: Recipe) -> Sequence[str]:
    """What `build` would do, in lines."""
    source = recipe.source
    lines = [f"model      {source.name}" + (f" ({source.repo}@{source.revision})" if source.repo else "")]
    lines.append(f"target     {recipe.target}, {recipe.precision}: {', '.join(recipe.graphs)}")
    lines.append(f"folder     {recipe.out}" + (" (in place: graphs and manifest are added)" if recipe.in_place else ""))
    if source.seed is not None:
        lines.append(f"weights    random, of seed {source.seed}, written into the folder")
    elif not recipe.in_place:
        lines += [f"file       {name}, {path.stat().st_size:,} bytes" for name, path in files(source).items()]
    return lines
