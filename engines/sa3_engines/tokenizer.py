"""The tokenizer that a checkpoint brings, read and seen to be the text encoder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sa3_engines.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load(path: Path, vocab_size: int) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(path))
    except Exception as e:  # it raises nothing more special
        raise CheckpointError(f"{path} is not a tokenizer: {e}") from e
    # Without those added besides, which a text encoder may do without.
    tokens = found.get_vocab_size(with_added_tokens=False)
    if tokens > vocab_size:
        raise CheckpointError(
            f"{path} has {tokens} tokens and the text encoder {vocab_size}; they are of different models"
        )
    return found
