"""One idea has many wordings, and each of them says it."""

import re

import numpy as np
import pytest

from sa3_training import captions, corpus, wordings


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def says(text: str, name: str) -> bool:
    """Every word of it, whatever stands between them."""
    words = re.findall(r"[\w#-]+", text.lower())
    return all(word in words for word in re.findall(r"[\w#-]+", name.lower()))


def test_captions_are_those_of_the_examples():
    assert list(corpus.captions(20)) == [corpus.example(seed).caption for seed in range(20)]


def test_one_note_is_said_in_many_ways():
    rng = dice()
    said = [captions.caption(rng, captions.note(rng, "saw", 61)) for _ in range(400)]
    assert len({text.lower().strip(".") for text in said}) > 250
    pattern = re.compile(r"(c#|c[ -]sharp|db|d flat)\s?4?", re.IGNORECASE)
    assert all(pattern.search(text) for text in said)
    assert all(any(says(text, name) for name in captions.INSTRUMENTS["saw"]) for text in said)


@pytest.mark.parametrize(
    ("midi", "names"),
    [
        (60, {"C4", "C", "middle C"}),
        (61, {"C#4", "Db4", "C sharp 4", "C-sharp 4", "D flat 4", "C#", "Db", "C sharp", "C-sharp", "D flat"}),
        (45, {"A2"}),
    ],
)
def test_notes_go_by_these_names(midi: int, names: set[str]):
    rng = dice()
    assert {captions.pitch_name(rng, midi) for _ in range(600)} == names


def test_the_a_of_an_octave_is_a_frequency():
    assert [captions.frequency(m) for m in (45, 57, 69, 81)] == ["110 Hz", "220 Hz", "440 Hz", "880 Hz"]


def test_a_loop_says_its_tempo():
    rng = dice()
    for _ in range(300):
        phrase, bpm, named = captions.loop(rng, ("drum loop",))
        if named:
            assert bpm in captions.NAMED_TEMPOS.values()
            assert not re.search(r"\d", phrase.text)
        else:
            assert str(bpm) in re.findall(r"\d+", phrase.text)


@pytest.mark.parametrize("word", captions.ADJECTIVES)
def test_adjectives_are_said(word: str):
    rng = dice()
    known = {*captions.ADJECTIVES[word], *captions.ADVERBS[word]}
    for _ in range(100):
        text = captions.caption(rng, captions.Phrase(text="kick"), [word])
        assert any(says(text, k) for k in known)


def test_sides_are_said():
    rng = dice()
    for side, words in (("left", ("left",)), ("right", ("right",)), ("centre", ("cent", "middle", "front"))):
        for _ in range(50):
            text = captions.caption(rng, captions.Phrase(text="kick"), side=side).lower()
            assert any(word in text for word in words)


def test_articles_fit():
    rng = dice()
    assert {captions.an(rng, "open hat") for _ in range(20)} >= {"an open hat"}
    assert captions.an(rng, "strings") == "strings"
    said = [captions.an(rng, text) for text in ("A4 sine", "F#3 bell", "kick", "flute", "one-shot kick") * 40]
    right = {"an A4 sine", "an F#3 bell", "a kick", "a flute", "a one-shot kick"}
    assert sum(text in right for text in said) > 0.93 * len(said)


def test_what_is_written_by_hand_is_not_what_the_grammar_says():
    said = {text.lower().strip(".") for text in corpus.captions(8000)}
    assert not [w.prompt for w in wordings.WORDINGS if w.prompt.lower() in said]


def test_fillers_do_not_part_words_that_belong_together():
    dice = np.random.default_rng(0)
    for _ in range(300):
        text = captions.filled(dice, "F sharp minor chord, 120 bpm")
        assert "F sharp minor" in text and "120 bpm" in text
