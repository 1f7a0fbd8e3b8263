"""A miniature checkpoint as it would be published: the golden one, with a tokenizer of twelve words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["warm", "slow", "loud", "dark", "drums", "drone", "piano", "pad", "bright", "noise", "a", "the"]


@pytest.fixture(scope="session")
def folder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For reading only."""
    out = tmp_path_factory.mktemp("checkpoints") / "tiny"
    shutil.copytree(golden / "tiny-small", out, ignore=shutil.ignore_patterns("cases"))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(out / "t5gemma-b-b-ul2" / "tokenizer.json"))
    return out


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy to change, under a path of the test's own folder."""

    def copy(name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy
