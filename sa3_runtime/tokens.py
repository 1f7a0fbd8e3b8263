"""Prompt text to token ids, without BOS or EOS."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Protocol

from sa3_engines import tokenizer
from sa3_engines.errors import InvalidRequest
from sa3_engines.models import Source


class Tokenizer(Protocol):
    def ids(self, prompt: str) -> list[int]: ...


class FileTokenizer:
    """The tokenizer.json a checkpoint brings."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._tokenizer = tokenizer.load(path, vocab_size)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._vocab_size = vocab_size

    def ids(self, prompt: str) -> list[int]:
        read = self._tokenizer.encode(prompt, add_special_tokens=False)
        for token, index in zip(read.tokens, read.ids, strict=True):
            if index >= self._vocab_size:
                raise InvalidRequest(f"the prompt holds {token!r}, a token that the text encoder does not know")
        return read.ids


class StandInTokenizer:
    """Ids of the right range and about the right number where a random model has no tokenizer of its own."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def ids(self, prompt: str) -> list[int]:
        # Words and marks, cut at eight letters: Gemma averages a little over one token a word.
        pieces = re.findall(r"\w{1,8}|[^\w\s]", prompt.lower())
        return [1 + zlib.crc32(piece.encode()) % (self._vocab_size - 1) for piece in pieces]


def tokenizer_for(source: Source) -> Tokenizer | None:
    text = source.config.text
    if text is None:
        return None
    if source.tokenizer is not None:
        return FileTokenizer(source.tokenizer, text.vocab_size)
    if source.random_weights:
        return StandInTokenizer(text.vocab_size)
    return None
