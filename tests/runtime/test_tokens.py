"""Prompts as token ids, with tokenizers that fit the text encoder and ones that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sa3_engines.errors import CheckpointError, InvalidRequest
from sa3_runtime.tokens import FileTokenizer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four words, and one added besides."""
    made = Tokenizer(models.WordLevel({"?": 0, "a": 1, "warm": 2, "pad": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_tokens(["solo"])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_words_become_ids(path: Path):
    assert FileTokenizer(path, 5).ids("a warm solo pad") == [1, 2, 4, 3]


def test_a_tokenizer_of_another_model(path: Path):
    with pytest.raises(CheckpointError, match=r"tokenizer.json has 4 tokens and the text encoder 3; they are of diff"):
        FileTokenizer(path, 3)


def test_tokens_added_besides_do_no_harm_until_a_prompt_holds_them(path: Path):
    tokenizer = FileTokenizer(path, 4)
    assert tokenizer.ids("a warm pad") == [1, 2, 3]
    with pytest.raises(InvalidRequest, match="the prompt holds 'solo', a token that the text encoder does not know"):
        tokenizer.ids("a solo pad")
