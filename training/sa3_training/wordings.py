"""Prompts as people write them and the grammar does not, with what must be true of their sounds."""

from dataclasses import dataclass

from sa3_training import captions
from sa3_training.drums import HITS, loop_checks, repeated_checks
from sa3_training.effects import AMBIENCES, EFFECTS, sweep_checks
from sa3_training.music import bass_line_checks, chord_checks, note_checks, run_checks
from sa3_training.truths import Check, Lasts, Level, Pan


@dataclass(frozen=True)
class Wording:
    prompt: str
    seconds: float
    checks: tuple[Check, ...]


def _midi(name: str) -> int:
    return 12 * (int(name[-1]) + 1) + captions.SHARPS.index(name[:-1])


def _note(name: str, *more: Check) -> tuple[Check, ...]:
    return note_checks(_midi(name)) + more


def _chord(name: str, quality: str, *more: Check) -> tuple[Check, ...]:
    return chord_checks(captions.SHARPS.index(name), quality) + more


LEFT, RIGHT, LOUD, QUIET = Pan("left"), Pan("right"), Level("loud"), Level("quiet")
SHORT = Lasts(0.1, 0.9)

NOTES = (
    Wording("let me hear middle C on a plain sine wave", 3, _note("C4")),
    Wording("the note A4 as a pure tone, nothing more", 3, _note("A4")),
    Wording("guitar: E3", 3, _note("E3")),
    Wording("square wave that plays a G3", 3, _note("G3")),
    Wording("one church bell ringing on C5", 4, _note("C5")),
    Wording("a single piano key, F4", 3, _note("F4")),
    Wording("concert pitch A4, sine", 2, _note("A4")),
    Wording("sine at 440 Hz for a tuning test", 4, _note("A4")),
    Wording("test tone of 220 Hz", 3, _note("A3")),
    Wording("bass guitar holding an E2", 4, _note("E2")),
    Wording("D sharp 3 from a sawtooth synth", 3, _note("D#3")),
    Wording("warm synth pad that stays on G3", 6, _note("G3")),
    Wording("B flat 4, glockenspiel", 3, _note("A#4")),
    Wording("harp string, A3", 3, _note("A3")),
    Wording("flute with the note D5", 3, _note("D5")),
    Wording("a chiptune beep on C5", 2, _note("C5")),
    Wording("F#3 on the saw please", 3, _note("F#3")),
    Wording("synth playing G sharp 4 with a square wave", 3, _note("G#4")),
    Wording("just the note E4 on a triangle wave", 3, _note("E4")),
    Wording("C3 - sawtooth", 2.5, _note("C3")),
    Wording("bell / D5", 3, _note("D5")),
    Wording("pluck C4 then silence", 5, _note("C4")),
    Wording("an ambient string pad on low A3", 5, _note("A3")),
    Wording("sine tone; pitch B3", 3, _note("B3")),
    Wording("low tone on C3", 3, _note("C3")),
    Wording("high sine note at C6", 3, _note("C6")),
    Wording("the lowest C2 of a bass", 3, _note("C2")),
    Wording("music box playing one E5", 3, _note("E5")),
    Wording("Eb4 flute tone", 3, _note("D#4")),
    Wording("video game synth, A flat 3", 3, _note("G#3")),
    Wording("soft piano note G4", 3, _note("G4", QUIET)),
    Wording("very loud C4 triangle wave in the right ear", 3, _note("C4", LOUD, RIGHT)),
    Wording("a D4 sine, only in my left ear", 3, _note("D4", LEFT)),
    Wording("quick staccato square note on A4", 3, _note("A4", SHORT)),
    Wording("quiet bell on G5 from the right speaker", 3, _note("G5", QUIET, RIGHT)),
    Wording("a brief F3 saw, very loud", 3, _note("F3", SHORT, LOUD)),
    Wording("long held pad note in D4", 6, _note("D4", Lasts(4))),
    Wording("sustained B2 of the synth bass", 5, _note("B2", Lasts(3))),
    Wording("a pure tone on the note F5 on the left side, softly", 3, _note("F5", LEFT, QUIET)),
    Wording("plucked string with the pitch D sharp 4", 3, _note("D#4")),
)
CHORDS = (
    Wording("a chord: C major", 4, _chord("C", "major")),
    Wording("strings holding an A minor chord", 5, _chord("A", "minor")),
    Wording("the G major triad played on a guitar", 4, _chord("G", "major")),
    Wording("D minor, piano chord", 4, _chord("D", "minor")),
    Wording("sad E minor chord on a warm pad", 5, _chord("E", "minor")),
    Wording("F major from a sawtooth synth", 3, _chord("F", "major")),
    Wording("bells in B flat major, one chord", 4, _chord("A#", "major")),
    Wording("happy D major chord with a synth pad", 4, _chord("D", "major")),
    Wording("one quiet F sharp minor chord, harp", 4, _chord("F#", "minor", QUIET)),
    Wording("loud A major chord on the synth lead", 3, _chord("A", "major", LOUD)),
    Wording("pure tones playing C minor", 4, _chord("C", "minor")),
    Wording("a short E flat major guitar chord on the right", 3, _chord("D#", "major", SHORT, RIGHT)),
)
HIT_WORDINGS = (
    Wording("boom of one bass drum", 2, HITS["kick"].checks),
    Wording("kick, once", 1.5, HITS["kick"].checks),
    Wording("one deep and punchy kick", 2, HITS["kick"].checks),
    Wording("just one hit on the snare", 2, HITS["snare"].checks),
    Wording("snare drum, a single stroke", 2, HITS["snare"].checks),
    Wording("somebody claps once with the hands", 2, HITS["clap"].checks),
    Wording("one clap from the left side", 2, (*HITS["clap"].checks, LEFT)),
    Wording("hi-hat, closed and tight", 1.5, HITS["closed hat"].checks),
    Wording("an open hat ringing", 2, HITS["open hat"].checks),
    Wording("one stroke on a floor tom", 2, HITS["tom"].checks),
    Wording("big crash of a cymbal", 4, HITS["cymbal"].checks),
    Wording("tick of a clock, just once", 1.5, HITS["click"].checks),
    Wording("the computer makes a beep", 2, HITS["beep"].checks),
    Wording("very quiet kick drum in the right speaker", 2, (*HITS["kick"].checks, QUIET, RIGHT)),
    Wording("a loud snare, hard left", 2, (*HITS["snare"].checks, LOUD, LEFT)),
    Wording("three claps of the hands", 3, repeated_checks("clap", 3)),
    Wording("a kick drum played two times", 3, repeated_checks("kick", 2)),
    Wording("beep beep beep", 3, repeated_checks("beep", 3)),
    Wording("the clock ticks four times", 3, repeated_checks("click", 4)),
)
LOOP_WORDINGS = (
    Wording("kick drum at 120 BPM on every beat, nothing else", 6, loop_checks("kicks", 120)),
    Wording("four on the floor, 128 bpm", 6, loop_checks("kicks", 128)),
    Wording("only a steady kick with a tempo of 90", 6, loop_checks("kicks", 90)),
    Wording("metronome set to 100 bpm", 6, loop_checks("clicks", 100)),
    Wording("ticking metronome, tempo 60", 8, loop_checks("clicks", 60)),
    Wording("people clapping a steady beat at 110 bpm", 6, loop_checks("claps", 110)),
    Wording("snare drum on each beat, 140 beats per minute", 5, loop_checks("snares", 140)),
    Wording("120 BPM house beat with kick and hi-hat", 6, loop_checks("house", 120)),
    Wording("rock drums playing at 100 BPM", 6, loop_checks("rock", 100)),
    Wording("drums, 90 bpm, hip hop", 6, loop_checks("backbeat", 90)),
    Wording("techno drums with 130 beats per minute", 6, loop_checks("house", 130)),
    Wording("simple kick and snare groove, tempo 80 bpm", 7, loop_checks("backbeat", 80)),
    Wording("hi-hats playing at 150 bpm", 5, loop_checks("hats", 150)),
    Wording("slow rock drum beat", 8, loop_checks("rock", 80)),
    Wording("a fast techno loop", 5, loop_checks("house", 160)),
    Wording("a drum groove in 115bpm on the left side", 6, (*loop_checks("rock", 115), LEFT)),
    Wording("quiet metronome, 75 bpm", 7, (*loop_checks("clicks", 75), QUIET)),
    Wording("bass line in E, 110 bpm, synth bass", 6, bass_line_checks(110)),
    Wording("groove of a bass in A at 95 bpm", 6, bass_line_checks(95)),
    Wording("riff on a synth bass in G, tempo 140", 6, bass_line_checks(140)),
)
RUNS = (
    Wording("C major scale going up on the piano", 3, run_checks(8, up=True)),
    Wording("the scale of A minor, downward, guitar", 3, run_checks(8, up=False)),
    Wording("a flute-like sine going down the G major scale", 3, run_checks(8, up=False)),
    Wording("bells play a rising arpeggio in D major", 2.5, run_checks(4, up=True)),
    Wording("falling E minor arpeggio from a harp", 2.5, run_checks(4, up=False)),
    Wording("chiptune: arpeggio up, C major", 2, run_checks(4, up=True)),
)
SWEEPS = (
    Wording("pitch rising from low to high", 4, sweep_checks(up=True)),
    Wording("a sine that sweeps up", 3, sweep_checks(up=True)),
    Wording("tone going down from high to low", 4, sweep_checks(up=False)),
    Wording("whoosh that goes up in pitch", 2.5, sweep_checks(up=True)),
    Wording("a whoosh that is falling", 2.5, sweep_checks(up=False)),
    Wording("build-up with tension, rising", 5, sweep_checks(up=True)),
    Wording("synth drop going downward", 4, sweep_checks(up=False)),
    Wording("loud noise sweep, upward, on the right", 3, (*sweep_checks(up=True), LOUD, RIGHT)),
)
PLACES = (
    Wording("rain falling on the roof, steady", 5, AMBIENCES["rain"].checks),
    Wording("heavy rain outside", 5, AMBIENCES["rain"].checks),
    Wording("a windy beach with ocean waves", 8, AMBIENCES["surf"].checks),
    Wording("waves of the sea", 8, AMBIENCES["surf"].checks),
    Wording("the wind is howling", 5, AMBIENCES["wind"].checks),
    Wording("a gust of cold wind", 4, AMBIENCES["wind"].checks),
    Wording("tv with static noise", 4, AMBIENCES["white noise"].checks),
    Wording("old radio hiss", 4, AMBIENCES["white noise"].checks),
    Wording("people in an audience applauding", 5, AMBIENCES["applause"].checks),
    Wording("crowd applause, quiet, from the left", 5, (*AMBIENCES["applause"].checks, QUIET, LEFT)),
    Wording("thunder far away, deep rumble", 5, AMBIENCES["rumble"].checks),
    Wording("the engine of a car running", 5, EFFECTS["engine"].checks),
    Wording("hum of a motor", 5, EFFECTS["engine"].checks),
    Wording("police car with a wailing siren", 5, EFFECTS["siren"].checks),
    Wording("alarm clock beeping", 4, EFFECTS["beeping"].checks),
    Wording("deep brown noise to sleep", 5, AMBIENCES["brown noise"].checks),
)
WORDINGS: tuple[Wording, ...] = (*NOTES, *CHORDS, *HIT_WORDINGS, *LOOP_WORDINGS, *RUNS, *SWEEPS, *PLACES)


@dataclass(frozen=True)
class Pair:
    """Two prompts from one seed, of which the first has more of something: by `comparison` in `quality`."""

    more: str
    less: str
    seconds: float
    property: str


PAIRS = tuple(
    Pair(form.format(more), form.format(less), 5 if more == "fast" else 3, f"{more} or {less}")
    for more, less, forms in (
        ("loud", "quiet", ("{} C4 sine", "{} kick drum", "a {} rain", "drum loop at 120 bpm, {}", "{} G major chord",
                           "{} A3 guitar", "bell on E5, {}", "{} noise sweep up")),
        ("bright", "dark", ("{} C3 saw", "{} square wave on A3", "{} pad note D4", "{} G2 bass", "piano on E4, {}",
                            "sawtooth F3, {}", "a {} chiptune D4", "a {} guitar B3")),
        ("long", "short", ("{} C4 sine", "{} A minor chord on a pad", "{} saw on E3", "{} white noise", "{} flute G4",
                           "square wave on C3, {}", "{} noise sweep up", "{} rain")),
        ("left", "right", ("C4 sine on the {}", "kick drum, {}", "rain on the {} side", "bell on A4 panned {}",
                           "drum loop at 100 bpm from the {}", "F major chord hard {}", "A3 saw {} only",
                           "{} channel, snare drum")),
        ("high", "low", ("{} sine tone", "a {} flute", "{} square note", "{} pluck", "{} bell", "{} synth pad",
                         "{}-pitched saw", "{}-pitched tone")),
        ("fast", "slow", ("{} metronome", "{} kick loop", "a {} clap loop", "{} click track", "{} snare loop",
                          "{} steady kick")),
    )
    for form in forms
)  # fmt: skip
