import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of 1600 Hz with random weights, which torch runs in milliseconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(GOLDEN / "tiny-small", folder)
    words = {word: number for number, word in enumerate(["[UNK]", "warm", "pads", "drums", "rain"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "t5gemma-b-b-ul2" / "tokenizer.json"))
    return folder
