"""Whether a checkpoint's weights and tokenizer can be exported at all, told from its own files before any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sa3_engines import models, tokenizer
from sa3_engines.errors import CheckpointError
from sa3_engines.filling import CONDITIONERS, DIT, TABLE
from sa3_engines.models import WEIGHTS, Source
from sa3_engines.tensors import Stored, TensorFile

AUTOENCODER, TEXT = "pretransform.model.", "model.encoder."
FREQUENCIES = "inv_freq"  # made on the host from a formula
# The types that graphs can read their weights in, and what of a number's bits is all ones in those that are none.
EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F64": ("<u8", 0x7FF << 52)}
IN_GRAPHS = ("F32", "F16", "BF16")
PIECE = 1 << 22  # numbers looked at in one go: few enough for the processor's cache
SHOWN = 5


def check_tokenizer(source: Source) -> str | None:
    """No graph needs it, and no bundle makes a sound from a prompt without: says so where there is none."""
    folder, text = source.text_folder, source.config.text
    if folder is None or text is None:
        return None
    path = folder / "tokenizer.json"
    if not path.exists():
        return f"there is no {path}: the bundle makes no sound from a prompt without"
    tokenizer.load(path, text.vocab_size)
    return None


def check_types(source: Source) -> None:
    """What the host reads may be of any type it knows."""
    for path, tensors in _used(source):
        on_host = (CONDITIONERS, TABLE)
        wrong = [
            f"{key} ({stored.dtype})"
            for key, stored in tensors.items()
            if stored.dtype not in (EXPONENTS if key.startswith(on_host) or key.endswith(FREQUENCIES) else IN_GRAPHS)
        ]
        if wrong:
            raise CheckpointError(
                f"{path}: {_listed(wrong)} cannot be exported: graphs read weights of type {', '.join(IN_GRAPHS)}; "
                "save the checkpoint again in one of them"
            )


def check_numbers(source: Source) -> None:
    """One look at every weight, less than a second for a gigabyte: as errors of a graph they would come late."""
    for path, tensors in _used(source):
        whole = np.memmap(path, np.uint8, "r")
        if wrong := [key for key, stored in tensors.items() if not _finite(whole, stored)]:
            raise CheckpointError(f"{path}: {_listed(wrong)} holds NaN or infinity, and cannot be exported")


def _finite(whole: np.ndarray, stored: Stored) -> bool:
    kind, exponent = EXPONENTS[stored.dtype]
    bits = whole[stored.offset : stored.offset + stored.size].view(kind)
    mask = bits.dtype.type(exponent)
    return all(((bits[i : i + PIECE] & mask) != mask).all() for i in range(0, len(bits), PIECE))


def _used(source: Source) -> Iterator[tuple[Path, dict[str, Stored]]]:
    """Of every file the tensors that are of the model: one may be a part of a checkpoint, and a text encoder's file
    holds its decoder too.
    """
    for name, path in models.files(source).items():
        if path.name != WEIGHTS:
            continue
        held = TensorFile(path).tensors
        if name != WEIGHTS:
            prefixes = (TEXT,)
        elif source.config.dit is not None:
            prefixes = (DIT, AUTOENCODER, CONDITIONERS)
        else:
            prefixes = (AUTOENCODER,) if any(key.startswith(AUTOENCODER) for key in held) else ("",)
        yield path, {key: stored for key, stored in held.items() if key.startswith(prefixes)}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
