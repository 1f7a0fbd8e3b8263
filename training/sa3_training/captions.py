"""The grammar that says what a sound is: one idea in many wordings, since nobody will use ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Dice = np.random.Generator

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MIDDLE_C = 60
NUMBERS = {2: "two", 3: "three", 4: "four"}
SLOWEST, FASTEST = 60, 180  # beats a minute
NAMED_TEMPOS = {"slow": 80, "": 120, "fast": 160}  # a loop that names no number has one of these

INSTRUMENTS: dict[str, tuple[str, ...]] = {
    "sine": ("sine", "sine wave", "sine tone", "pure tone", "sinus", "test tone", "sine"),
    "triangle": ("triangle wave", "triangle", "triangle tone", "flute", "wooden flute"),
    "square": ("square wave", "square", "square tone", "chiptune", "8-bit synth", "video game synth"),
    "saw": ("saw", "saw wave", "sawtooth", "sawtooth wave", "saw lead", "buzzy synth", "synth lead"),
    "bass": ("bass", "bass synth", "synth bass", "bass guitar", "electric bass"),
    "pad": ("pad", "synth pad", "ambient pad", "string pad", "strings", "warm pad"),
    "bell": ("bell", "chime", "glockenspiel", "bell tone", "music box", "church bell"),
    "pluck": ("pluck", "plucked string", "guitar", "harp", "plucked guitar", "piano", "string pluck"),
}
SWEEPS: dict[str, tuple[str, ...]] = {
    "sweep": ("sweep", "sine sweep", "pitch sweep", "tone sweep", "frequency sweep", "glide"),
    "noise sweep": ("noise sweep", "whoosh", "swoosh", "filtered noise sweep", "sweep of noise"),
    "riser": ("riser", "synth riser"),
}
UP = ("rising {}", "{} up", "upward {}", "{} going up", "ascending {}", "up {}", "{} rising")
DOWN = ("falling {}", "{} down", "downward {}", "{} going down", "descending {}", "down {}", "{} falling")
RISERS = {
    True: ("riser", "rising synth", "build-up", "riser effect", "synth riser", "tension riser", "uplifter"),
    False: ("downlifter", "falling synth", "reverse riser", "drop effect", "synth fall", "synth drop", "downer"),
}  # fmt: skip
TEMPOS = ("{} BPM", "{} bpm", "{}bpm", "{} beats per minute", "{}BPM", "tempo {}", "{} Bpm")
FAST, SLOW = ("fast", "quick", "uptempo"), ("slow", "slow tempo", "downtempo")

LOUD = ("loud", "very loud", "strong", "powerful", "loud")
QUIET = ("quiet", "soft", "faint", "very quiet", "gentle", "quiet")
LOUDLY = ("loud", "loudly", "at high volume", "at full volume", "very loud")
QUIETLY = ("quiet", "quietly", "softly", "at low volume", "very quietly", "in the background")
SHORT, LONG = ("short", "brief", "quick", "short", "staccato"), ("long", "sustained", "long", "held", "lasting")
BRIGHT, DARK = ("bright", "crisp", "brilliant", "harsh", "bright"), ("dark", "muffled", "dull", "mellow", "dark")
SIDES = ("on the {}", "panned {}", "from the {}", "in the {} speaker", "in the {} channel", "to the {}", "{} side",
         "hard {}", "{} only", "panned to the {}", "in the {} ear", "{}", "{} channel")  # fmt: skip
CENTRES = ("in the centre", "in the center", "centred", "centered", "in the middle", "panned center", "from the front")

LEADS = ("sound of ", "a recording of ", "please make ", "I want ", "the sound of ", "give me ", "sample of ", "play ",
         "generate ", "make ", "recording of ", "audio of ", "I need ", "can you make ", "sound effect of ", "please, ",
         "some sound: ", "create ", "just ")  # fmt: skip
FILLERS = ("the", "a", "of", "with", "on", "in", "at", "to", "from", "for", "my", "this", "that", "it", "is", "and",
           "some", "just", "now", "then", "here", "really", "nice", "good", "clean", "real", "new", "old", "playing",
           "plays", "played", "sounding", "made", "hear", "like", "as", "by", "please", "exactly", "something",
           "digital", "studio", "classic", "you", "your", "can", "will", "be", "who", "which", "using")  # fmt: skip
BOUND = frozenset(("sharp", "flat", "major", "minor", "maj", "min", "bpm", "beats", "per", "minute", "hz", "times", "c",
                   "side", "speaker", "channel", "ear"))  # fmt: skip
BREAKS = ("; ", " - ", ": ", " / ", " ", " and ", ". ")
TRAILS = ("please", "sound", "sound effect", "nothing else", "thanks", "recording", "clean", "isolated", "high quality")


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A sound in words, before adjectives. `article`: one of these can be `a` or `one`."""

    text: str
    article: bool = True


def pick(dice: Dice, options: Sequence[str]) -> str:
    return options[int(dice.integers(len(options)))]


def chance(dice: Dice, share: float) -> bool:
    return float(dice.random()) < share


def an(dice: Dice, text: str) -> str:
    """With `a` or `an`, mostly the right one; what is many has none."""
    if any(word.endswith("s") and not word.endswith("ss") for word in text.split()[:2]):
        return text
    first = text[:2]
    vowel = first[:1] in "aeioAEIO8" or first == "up" or (first[:1] == "F" and first[1:] in ("#", " ", "", *"23456"))
    vowel = vowel and not text.startswith("one")
    return ("an " if vowel != chance(dice, 0.02) else "a ") + text


def class_name(dice: Dice, pitch_class: int) -> str:
    """A note without its octave: C, C#, C sharp, Db, D flat."""
    sharp, flat = SHARPS[pitch_class], FLATS[pitch_class]
    if sharp == flat:
        return sharp
    roll = dice.random()
    if roll < 0.45:
        return sharp
    if roll < 0.65:
        return flat
    return f"{sharp[0]}{pick(dice, (' sharp', '-sharp', ' sharp'))}" if roll < 0.85 else f"{flat[0]} flat"


def pitch_name(dice: Dice, midi: int, usual_octave: int = 4) -> str:
    """A note with its octave, as people write it; in the usual one it may be left out."""
    name, octave = class_name(dice, midi % 12), midi // 12 - 1
    if midi == MIDDLE_C and chance(dice, 0.3):
        return "middle C"
    if octave == usual_octave and chance(dice, 0.15):
        return name
    return f"{name}{' ' if len(name) > 2 else ''}{octave}"


def frequency(midi: int) -> str:
    """The A of every octave is a round number of hertz."""
    return f"{440 * 2 ** ((midi - 69) // 12):g} Hz"


NOTES = ("{p} {i}", "{i} {p}", "{i}, {p}", "{i} on {p}", "{i} playing {p}", "{i} note {p}", "{p} on {ai}",
         "{p} note on {ai}", "{i} at {p}", "note {p} on {ai}", "{p} played on {ai}", "{i}, note {p}", "{p} {i} note",
         "{p}, {i}", "{i} playing the note {p}", "{i} tone {p}")  # fmt: skip
BARE = ("{p}", "note {p}", "{p} note", "{p} tone", "tone at {p}", "tone on {p}", "the note {p}")
HERTZ = ("{f} {i}", "{i} at {f}", "{i} {f}", "{i}, {f}")


def note(dice: Dice, instrument: str, midi: int) -> Phrase:
    name = pick(dice, INSTRUMENTS[instrument])
    if instrument == "sine" and midi % 12 == 9 and chance(dice, 0.3):
        bare = chance(dice, 0.3)
        return Phrase(text=pick(dice, HERTZ).format(f=frequency(midi), i="tone" if bare else name))
    pitch = pitch_name(dice, midi, 2 if instrument == "bass" else 4)
    if instrument == "sine" and chance(dice, 0.2):
        # Whoever names no instrument means a plain tone.
        return Phrase(text=pick(dice, BARE).format(p=pitch))
    words = {"p": pitch, "i": name, "ai": an(dice, name)}
    return Phrase(text=pick(dice, NOTES).format_map(words))


HEIGHTS = {"low": ("low", "low-pitched", "deep", "low"), "high": ("high", "high-pitched", "high")}
PLAIN = ("{i}", "{i} note", "{i} sound", "note on {ai}")
PLAIN_SINE = ("tone", "note", "{i}", "{i} note")


def plain_note(dice: Dice, instrument: str, height: str) -> Phrase:
    """An instrument without a note."""
    name = pick(dice, INSTRUMENTS[instrument])
    text = pick(dice, PLAIN_SINE if instrument == "sine" else PLAIN).format(i=name, ai=an(dice, name))
    return Phrase(text=f"{pick(dice, HEIGHTS[height])} {text}" if height else text)


CHORDS = ("{c} {q} chord on {ai}", "{c} {q} {i} chord", "{i} {c} {q} chord", "{i} playing {c} {q}",
          "{c} {q} chord, {i}", "{i} chord, {c} {q}", "{i} chord in {c} {q}", "{c} {q} on {ai}",
          "{i} playing a {c} {q} chord", "chord of {c} {q} on {ai}", "{c} {q} {i}")  # fmt: skip
BARE_CHORDS = ("{c} {q} chord", "{c} {q}", "chord {c} {q}", "{c} {q} triad", "{q} chord on {c}", "chord of {c} {q}")
QUALITIES = {"major": ("major", "major", "maj", "Major"), "minor": ("minor", "minor", "min", "Minor")}


def chord(dice: Dice, instrument: str, pitch_class: int, quality: str) -> Phrase:
    name = pick(dice, INSTRUMENTS[instrument])
    words = {"c": class_name(dice, pitch_class), "q": pick(dice, QUALITIES[quality]), "i": name, "ai": an(dice, name)}
    bare = instrument == "pad" and chance(dice, 0.35)
    return Phrase(text=pick(dice, BARE_CHORDS if bare else CHORDS).format_map(words))


RUNS = ("{c} {q} {w} on {ai}", "{i} {w} in {c} {q}", "{w} in {c} {q} on {ai}", "{c} {q} {i} {w}", "{i} {c} {q} {w}",
        "{i} playing a {c} {q} {w}")  # fmt: skip
BARE_RUNS = ("{c} {q} {w}", "{w} in {c} {q}", "{c} {q} {w}")


def run(dice: Dice, what: str, instrument: str, pitch_class: int, quality: str, *, up: bool) -> Phrase:
    """A scale or an arpeggio; on a pluck, and upwards, unless it says otherwise."""
    name = pick(dice, INSTRUMENTS[instrument])
    words = {"c": class_name(dice, pitch_class), "q": pick(dice, QUALITIES[quality]), "i": name, "ai": an(dice, name)}
    bare = instrument == "pluck" and chance(dice, 0.35)
    runs = BARE_RUNS if bare else RUNS
    moving = what if up and chance(dice, 0.3) else pick(dice, UP if up else DOWN).format(what)
    return Phrase(text=pick(dice, runs).format_map({**words, "w": moving}))


def with_tempo(dice: Dice, text: str, bpm: int) -> str:
    tempo = pick(dice, TEMPOS).format(bpm)
    return pick(dice, (f"{tempo} {text}", f"{text} at {tempo}", f"{text}, {tempo}", f"{text} {tempo}"))


def bass_line(dice: Dice, pitch_class: int, bpm: int) -> Phrase:
    name = class_name(dice, pitch_class)
    line = pick(dice, ("bass line", "bassline", "synth bass line", "bass riff", "bass groove", "bass part"))
    text = pick(dice, (f"{line} in {name}", f"{name} {line}", f"{line}, {name}", f"{line} in the key of {name}"))
    return Phrase(text=with_tempo(dice, text, bpm))


def tempo(dice: Dice) -> int:
    """Beats a minute, half of them the round numbers people ask for."""
    if chance(dice, 0.5):
        return 5 * int(dice.integers(SLOWEST // 5, FASTEST // 5 + 1))
    return int(dice.integers(SLOWEST, FASTEST + 1))


def loop(dice: Dice, names: Sequence[str]) -> tuple[Phrase, int, bool]:
    """Words, the tempo they mean, and whether they mean it without a number."""
    text = pick(dice, names)
    if chance(dice, 0.15):
        pace = pick(dice, tuple(NAMED_TEMPOS))
        adjective = pick(dice, {"slow": SLOW, "fast": FAST}.get(pace, ("",)))
        return Phrase(text=f"{adjective} {text}".strip()), NAMED_TEMPOS[pace], True
    bpm = tempo(dice)
    return Phrase(text=with_tempo(dice, text, bpm)), bpm, False


def hit(dice: Dice, names: Sequence[str]) -> Phrase:
    text = pick(dice, names)
    return Phrase(text=text if chance(dice, 0.8) else f"{pick(dice, ('single', 'one-shot'))} {text}")


def repeated(dice: Dice, names: Sequence[str], times: int) -> Phrase:
    text = pick(dice, names)
    number = NUMBERS[times] if chance(dice, 0.75) else str(times)
    often = "twice" if times == 2 and chance(dice, 0.4) else f"{number} times"
    return Phrase(
        text=pick(dice, (f"{number} {text}s", f"{number} {text}s", f"{text}, {often}", f"{text} {often}")),
        article=False,
    )


def effect(dice: Dice, names: Sequence[str]) -> Phrase:
    text = pick(dice, names)
    return Phrase(text=text.removeprefix("*"), article=text.startswith("*"))


def sweep(dice: Dice, what: str, *, up: bool) -> Phrase:
    if what == "riser":
        return Phrase(text=pick(dice, RISERS[up]))
    return Phrase(text=pick(dice, UP if up else DOWN).format(pick(dice, SWEEPS[what])))


ADJECTIVES = {"short": SHORT, "long": LONG, "bright": BRIGHT, "dark": DARK, "loud": LOUD, "quiet": QUIET}
ADVERBS = {**ADJECTIVES, "loud": LOUDLY, "quiet": QUIETLY}


def caption(dice: Dice, phrase: Phrase, words: Sequence[str] = (), side: str = "") -> str:
    """A phrase with its adjectives (`loud`, `short` ...) and its side, as somebody might write it."""
    before: list[str] = []
    after: list[str] = []
    for word in words:
        if chance(dice, 0.65):
            before.append(pick(dice, ADJECTIVES[word]))
        else:
            after.append(pick(dice, ADVERBS[word]))
    if side:
        after.append(pick(dice, CENTRES) if side == "centre" else pick(dice, SIDES).format(side))
    dice.shuffle(before)
    dice.shuffle(after)
    text = _joined(dice, before, phrase.text)
    lead = pick(dice, LEADS) if chance(dice, 0.12) else ""
    if phrase.article and chance(dice, 0.7 if lead else 0.3):
        text = f"one {text}" if chance(dice, 0.15) else an(dice, text)
    text = lead + text
    comma = chance(dice, 0.6)
    for word in after:
        if chance(dice, 0.12):
            text = f"{word}{pick(dice, (', ', ': ', ' '))}{text}"
        else:
            text += (", " if comma else " ") + word
    if chance(dice, 0.04):
        text += ", " + pick(dice, TRAILS)
    if chance(dice, 0.25):
        text = filled(dice, text)
    return _written(dice, text)


def filled(dice: Dice, text: str) -> str:
    """With words and signs in it that say nothing: people have more ways to put things than any list of ours."""
    if chance(dice, 0.4):
        text = text.replace(", ", pick(dice, BREAKS))
    words = text.split(" ")
    for _ in range(int(dice.integers(1, 4))):
        at = int(dice.integers(0, len(words) + 1))
        # Not between words that mean something together: F sharp, 120 bpm.
        if at == len(words) or words[at].lower().strip(",.;:") not in BOUND:
            words.insert(at, pick(dice, FILLERS))
    return " ".join(words)


def _joined(dice: Dice, adjectives: Sequence[str], text: str) -> str:
    if not adjectives:
        return text
    return (", " if len(adjectives) > 1 and chance(dice, 0.3) else " ").join(adjectives) + " " + text


def _written(dice: Dice, text: str) -> str:
    """Capitals and a full stop, as they come."""
    roll = dice.random()
    if roll < 0.25:
        text = text[0].upper() + text[1:]
    elif roll < 0.37:
        text = text.lower()
    elif roll < 0.39:
        text = text.upper()
    return text + "." if chance(dice, 0.08) else text
