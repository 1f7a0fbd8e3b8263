"""Numbers are words of their own, and mean nearly the same as their neighbours."""

import pytest
import torch
from tokenizers import Tokenizer

from sa3_training import corpus, numbers, tokens


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokens.learn(corpus.captions(500))


@pytest.mark.parametrize(
    "wording", ["kick loop at {} BPM", "metronome {}bpm", "{} beats per minute, drums", "Tempo {}."]
)
def test_every_tempo_is_one_token(tokenizer: Tokenizer, wording: str):
    for bpm in range(60, 181):
        assert str(bpm) in tokenizer.encode(wording.format(bpm)).tokens


def test_a_note_is_a_letter_and_a_number(tokenizer: Tokenizer):
    assert tokenizer.encode("saw F#3").tokens[-3:] == ["▁f", "#", "3"]


def test_numbers_begin_near_their_neighbours(tokenizer: Tokenizer):
    embedding = torch.randn(tokens.VOCABULARY, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    before = embedding.clone()
    numbers.begin(embedding, tokenizer)
    rows = embedding[[tokenizer.token_to_id(str(n)) for n in (100, 101, 110, 160)]]
    alike = torch.corrcoef(rows)[0]
    assert alike[1] > 0.6 > alike[2]
    assert abs(alike[3]) < 0.3
    assert rows.std() == pytest.approx(0.1, rel=0.2)
    changed = (embedding != before).any(dim=1).sum()
    assert changed == len(tokens.NUMBERS)
