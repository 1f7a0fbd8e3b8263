"""Low-rank adapters (LoRA and its seven relatives): reading a file, and the weight a stack of them makes, in numpy.

An engine asks for effective weights and puts them where its own are; it needs to know nothing of adapter types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from sa3_engines import factors
from sa3_engines.errors import CheckpointError, InvalidRequest, ModelNotFound
from sa3_engines.tensors import TensorFile

Array = np.ndarray
TYPES = tuple(f"{kind}{form}" for form in ("", "-xs") for kind in ("lora", "dora-rows", "dora-cols", "bora"))
SECONDS = "conditioners.seconds_total.embedder.embedding.1"
_KEY = re.compile(r"(?P<module>.+)\.parametrizations\.weight\.0\.(?P<name>\w+)")
_NAMES = ("lora_A", "lora_B", "M_xs", "magnitude", "magnitude_r", "magnitude_c")
_MOST_IN_A_RANGE = 1000
_TINY = np.float32(1e-12)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """One file. `modules` maps a module's name to its tensors, in fp32."""

    name: str
    kind: str
    rank: int
    alpha: float
    include: tuple[str, ...] | None
    exclude: tuple[str, ...]
    modules: Mapping[str, Mapping[str, Array]] = field(repr=False)

    def adapts(self, module: str) -> bool:
        """Whether this adapter was made for a module, in its file or left at its (identity) start."""
        if self.include is not None and not any(part in module for part in self.include):
            return False
        return not any(part in module for part in self.exclude)


@dataclass(frozen=True, kw_only=True)
class ActiveAdapter:
    """An adapter in use. Strength 0 is the same as not using it."""

    adapter: Adapter
    strength: float = 1.0
    conditioner_strength: float = 1.0
    skip: tuple[str, ...] = ()  # parts of names of transformer modules it leaves alone

    def strength_on(self, module: str) -> float:
        if not module.startswith("model."):
            return self.conditioner_strength
        relative = module.removeprefix("model.").lower()
        return 0.0 if any(part in relative for part in self.skip) else self.strength


def load(path: Path) -> Adapter:
    if not path.exists():
        raise ModelNotFound(f"adapter {path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"adapter {path} is no file; an adapter is one .safetensors file")
    if not path.stat().st_size:
        raise CheckpointError(f"adapter {path} is an empty file")
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"adapter {path} is not a .safetensors file; pickled adapters (.ckpt, .pt, .bin) can run any code when "
            "opened and are refused: convert it where you trust it"
        )
    file = TensorFile(path)
    modules: dict[str, dict[str, Array]] = {}
    for key in file.tensors:
        with np.errstate(over="ignore"):  # of doubles, which are looked at below
            tensor = np.array(file.array(key), np.float32)
        match = _KEY.fullmatch(key)
        if match is None or match["name"] not in _NAMES:
            raise CheckpointError(f"adapter {path}: {key} is not an adapter tensor")
        if not np.isfinite(tensor).all() or (tensor.ndim != 2 and match["name"] in _NAMES[:3]):
            raise CheckpointError(f"adapter {path}: {key} of shape {tensor.shape} is no matrix of numbers")
        modules.setdefault(match["module"], {})[match["name"]] = tensor
    if not modules:
        raise CheckpointError(f"adapter {path} holds no tensors")
    return _from_tensors(path, modules, _config(path, file.metadata))


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata.get("lora_config", "{}"))
    except ValueError as e:
        raise CheckpointError(f"adapter {path}: its lora_config is not JSON: {e}") from e
    if not isinstance(config, dict):
        raise CheckpointError(f"adapter {path}: its lora_config is not an object")
    known = cast("dict[str, Any]", config)
    for name in ("rank", "alpha"):
        value = known.get(name)
        # One beyond `LARGEST` may be a whole number that is no float, or infinity.
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
        if value is not None and (not number or (name == "rank" and value != int(value))):
            raise CheckpointError(f"adapter {path}: its {name} is {repr(value)[:50]}")
    for name in ("include", "exclude"):
        value = known.get(name)
        texts = cast("list[Any]", value if isinstance(value, list) else [value])
        if value is not None and not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"adapter {path}: its {name} is {value!r}; names were expected")
    return known


def _from_tensors(path: Path, modules: dict[str, dict[str, Array]], config: Mapping[str, Any]) -> Adapter:
    first = next(iter(modules.values()))
    inferred = (
        len(first["lora_A"])
        if "lora_A" in first
        else first["lora_B"].shape[1]
        if "lora_B" in first
        else len(first["M_xs"])
        if "M_xs" in first
        else 0
    )
    rank = int(config.get("rank") or inferred)
    if rank < 1:
        raise CheckpointError(f"adapter {path}: its rank is neither stated nor to be seen in its tensors")
    kind = str(config.get("adapter_type") or "lora")
    if kind == "dora":  # the name before rows and columns were told apart
        magnitude = next((t["magnitude"] for t in modules.values() if "magnitude" in t), None)
        kind = "dora-cols" if magnitude is not None and magnitude.ndim == 2 and magnitude.shape[0] == 1 else "dora-rows"
    if kind not in TYPES:
        raise CheckpointError(f"adapter {path} is of type {kind!r}; this toolkit knows {', '.join(TYPES)}")
    for module, tensors in modules.items():
        _check_kind(path, kind, module, tensors)
        for name in _NAMES[3:]:
            if name in tensors:
                tensors[name] = tensors[name].reshape(-1)
    return Adapter(
        name=path.stem,
        kind=kind,
        rank=rank,
        alpha=float(rank if config.get("alpha") is None else config["alpha"]),
        include=tuple(expand(config["include"])) if config.get("include") else None,
        exclude=tuple(expand(config.get("exclude") or ())),
        modules=modules,
    )


def _check_kind(path: Path, kind: str, module: str, tensors: Mapping[str, Array]) -> None:
    """A module's tensors are those its type has: what does not belong would be left out in silence."""
    pair = ("M_xs",) if kind.endswith("-xs") else ("lora_A", "lora_B")
    form = kind.removesuffix("-xs")
    magnitudes = {"lora": (), "bora": ("magnitude_r", "magnitude_c")}.get(form, ("magnitude",))
    strange = [name for name in tensors if name not in (*pair, *magnitudes)]
    missing = [name for name in pair if name not in tensors]
    if strange or (missing and len(missing) < len(pair)):
        what = f"has {strange[0]}, which {kind} does not" if strange else f"lacks {missing[0]}"
        raise CheckpointError(f"adapter {path}: {module} {what}")


def expand(patterns: str | Iterable[str]) -> list[str]:
    """`layers.[0-2]` stands for layers.0, layers.1 and layers.2; a string holds several, with commas between."""
    parts = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    out: list[str] = []
    for part in (p.strip() for p in parts):
        match = re.search(r"\[(\d+)-(\d+)\]", part)
        if match:
            low, high = int(match[1]), int(match[2])
            if high - low >= _MOST_IN_A_RANGE:
                raise InvalidRequest(f"the range {match[0]} of layers is longer than {_MOST_IN_A_RANGE}")
            out += expand([part[: match.start()] + str(i) + part[match.end() :] for i in range(low, high + 1)])
        elif part:
            out.append(part)
    return out


def layer_filter(text: str) -> tuple[str, ...]:
    return tuple(expand(text.lower()))


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Every tensor of the file has a place; shapes maps the modules that can be adapted to (out, in)."""
    wrong: list[str] = []
    for module, tensors in adapter.modules.items():
        if module not in shapes:
            wrong.append(f"{module} (no such module)")
            continue
        rows, columns = shapes[module]
        if "M_xs" in tensors and adapter.rank > min(rows, columns):
            wrong.append(f"{module} has no {adapter.rank} directions, being {rows} x {columns}")
        expected = {
            "lora_A": (adapter.rank, columns),
            "lora_B": (rows, adapter.rank),
            "M_xs": (adapter.rank, adapter.rank),
            "magnitude": (columns,) if "cols" in adapter.kind else (rows,),
            "magnitude_r": (rows,),
            "magnitude_c": (columns,),
        }
        wrong += [
            f"{module}.{name} {tensor.shape}, needs {expected[name]}"
            for name, tensor in tensors.items()
            if tensor.shape != expected[name]
        ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"adapter {adapter.name} does not fit this model: {'; '.join(wrong[:5])}{more}")


class Merger:
    """Makes effective weights, and keeps the decompositions that -xs adapters need of the base weights."""

    def __init__(self) -> None:
        self._bases: dict[str, tuple[Array, Array]] = {}

    def weight(
        self, module: str, base: Array, stack: Sequence[ActiveAdapter], *, largest: float = LARGEST
    ) -> Array | None:
        """The weight, in base's shape and fp32, that the stack makes of base; None where it leaves it alone. largest:
        what is beyond it where the weight is to be stored.
        """
        original = np.asarray(base, np.float32).reshape(len(base), -1)
        weight = original
        for active in stack:
            strength = active.strength_on(module)
            adapter = active.adapter
            if strength == 0 or not (module in adapter.modules or adapter.adapts(module)):
                continue
            tensors = adapter.modules.get(module, {})
            if not tensors and weight is original:
                continue  # at its start an adapter changes nothing, unless one before it did
            # No warnings: what they are about is looked for in what comes out.
            with np.errstate(all="ignore"):
                weight = self._apply(module, original, weight, adapter, tensors, np.float32(strength))
                fits = max(weight.max(), -weight.min()) <= largest  # false of what is no number, too
            if not fits:
                raise InvalidRequest(
                    f"adapter {adapter.name} at strength {strength:g} makes numbers of {module} that are too large, or "
                    "none at all; use a smaller strength"
                )
        return None if weight is original else weight.reshape(base.shape)

    def _apply(
        self, module: str, original: Array, weight: Array, adapter: Adapter, tensors: Mapping[str, Array], s: np.float32
    ) -> Array:
        delta = self._delta(module, original, adapter, tensors)
        changed = weight if delta is None else weight + np.float32(adapter.alpha / adapter.rank) * s * delta
        kind = adapter.kind.removesuffix("-xs")
        if kind in ("dora-rows", "bora"):
            magnitude = tensors.get("magnitude_r" if kind == "bora" else "magnitude")
            changed = _renormalised(changed, original, magnitude, axis=1)
        if kind in ("dora-cols", "bora"):
            magnitude = tensors.get("magnitude_c" if kind == "bora" else "magnitude")
            changed = _renormalised(changed, original, magnitude, axis=0)
        return changed

    def _delta(self, module: str, original: Array, adapter: Adapter, tensors: Mapping[str, Array]) -> Array | None:
        if adapter.kind.endswith("-xs"):
            if "M_xs" not in tensors:
                return None
            u, vt = self._svd(module, original, adapter.rank)
            return u @ tensors["M_xs"] @ vt
        if "lora_A" not in tensors or "lora_B" not in tensors:
            return None
        return tensors["lora_B"] @ tensors["lora_A"]

    def _svd(self, module: str, original: Array, rank: int) -> tuple[Array, Array]:
        if rank > min(original.shape):
            raise InvalidRequest(f"an -xs adapter of rank {rank} cannot apply to {module} of shape {original.shape}")
        kept = self._bases.get(module)
        if kept is None or kept[0].shape[1] < rank:
            # With the signs that adapters are trained with.
            kept = self._bases[module] = factors.leading(original, rank)
        return kept[0][:, :rank], kept[1][:rank]


def _renormalised(weight: Array, original: Array, magnitude: Array | None, axis: int) -> Array:
    if magnitude is None:
        magnitude = np.linalg.norm(original, axis=axis)
    norm = np.linalg.norm(weight, axis=axis) + _TINY
    norm[np.isinf(norm)] = np.nan  # it has no direction any more: it is not zero
    return weight * np.expand_dims(magnitude / norm, axis)
