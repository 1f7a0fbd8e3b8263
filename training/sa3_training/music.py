"""Kinds of sound with pitch: notes, chords, scales, arpeggios, bass lines."""

from collections.abc import Mapping

from sa3_training import captions, synth, tones
from sa3_training.sketch import Draw, Kind, Sketch
from sa3_training.synth import Array
from sa3_training.truths import Centroid, Check, Chord, Lasts, Moves, Noisy, Pitch, PitchClass, Share, Tempo

USUAL = {"sine": 69, "triangle": 60, "square": 60, "saw": 60, "bass": 40, "pad": 60, "bell": 72, "pluck": 60}
LOW, HIGH = 48, 84  # what a low and a high note are
BASS_LOW, BASS_HIGH = 36, 60
CHORD_LOWEST = 55  # roots from G3 to F#4, around middle C
CHORD_INSTRUMENTS = ("pad", "pluck", "saw", "bell", "sine")
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}
RUN_INSTRUMENTS = ("pluck", "sine", "square", "bell")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11, 12), "minor": (0, 2, 3, 5, 7, 8, 10, 12)}
ARPEGGIOS = {"major": (0, 4, 7, 12), "minor": (0, 3, 7, 12)}
STEP_SAMPLES = 16 * synth.UNIT  # of a scale: 0.37 s, four latents
STEP_SECONDS = STEP_SAMPLES / synth.RATE
NATURALS = (0, 2, 4, 5, 7, 9, 11)


def root(pitch_class: int) -> int:
    return CHORD_LOWEST + (pitch_class - CHORD_LOWEST) % 12


def note_checks(midi: int) -> tuple[Check, ...]:
    return (Pitch(synth.hertz(midi)), PitchClass(synth.hertz(midi)), Noisy(noise=False))


def chord_checks(pitch_class: int, quality: str) -> tuple[Check, ...]:
    return (Chord(frozenset((pitch_class + step) % 12 for step in TRIADS[quality])),)


def run_checks(notes: int, *, up: bool) -> tuple[Check, ...]:
    return (Moves(up, octaves=0.5), Lasts(0.7 * notes * STEP_SECONDS, notes * STEP_SECONDS + 0.4))


def bass_line_checks(bpm: float) -> tuple[Check, ...]:
    return (Tempo(bpm, strict=False), Share(0, 400, least=0.6))


def _midi(draw: Draw, instrument: str) -> int:
    low, high = (BASS_LOW, BASS_HIGH) if instrument == "bass" else (tones.LOWEST, tones.HIGHEST)
    if instrument != "bass" and draw.rng.random() < 0.5:
        low, high = 48, 72  # where most people ask
    if draw.rng.random() < 0.4:
        return draw.pick([m for m in range(low, high + 1) if m % 12 in NATURALS])
    return int(draw.rng.integers(low, high + 1))


def _note(draw: Draw) -> Sketch:
    instrument = draw.pick(tuple(tones.INSTRUMENTS))
    midi = _midi(draw, instrument)
    return _sounded(draw, f"note {instrument} {midi}", instrument, midi, captions.note(draw.rng, instrument, midi))


def _plain_note(draw: Draw) -> Sketch:
    """An instrument and no note, or only `low` and `high`."""
    instrument, height = draw.pick(tuple(tones.INSTRUMENTS)), draw.pick(("", "low", "high"))
    bass = instrument == "bass"
    heights = {"low": BASS_LOW if bass else LOW, "high": BASS_HIGH if bass else HIGH}
    midi = heights.get(height, USUAL[instrument])
    phrase = captions.plain_note(draw.rng, instrument, height)
    return _sounded(draw, f"plain {instrument} {height}", instrument, midi, phrase, combined=False)


def _sounded(
    draw: Draw, key: str, instrument: str, midi: int, phrase: captions.Phrase, *, combined: bool = True
) -> Sketch:
    colour = "" if instrument in tones.PLAIN else draw.colour
    checks = note_checks(midi)
    if colour:
        usual = tones.centroid(instrument, midi)
        checks += (Centroid(high_hz=usual * 0.97) if colour == "dark" else Centroid(low_hz=usual * 1.03),)
    return Sketch(
        key=key,
        combined=combined,
        phrase=phrase,
        coloured=bool(colour),
        wave=lambda: synth.padded(tones.tone(instrument, tones.tuned(midi), draw.sounding, colour), draw.count),
        checks=checks + _lasts(draw, instrument),
    )


def _lasts(draw: Draw, instrument: str) -> tuple[Check, ...]:
    # However long a bell is asked to be, it fades.
    return () if draw.length == "long" and instrument in tones.RINGING else draw.lasts


def _chord(draw: Draw) -> Sketch:
    instrument = draw.pick(CHORD_INSTRUMENTS)
    pitch_class, quality = int(draw.rng.integers(12)), draw.pick(tuple(TRIADS))
    notes = [root(pitch_class) + step for step in TRIADS[quality]]

    def wave() -> Array:
        first, second, third = (tones.tone(instrument, tones.tuned(n), draw.sounding) for n in notes)
        return synth.padded(first + second + third, draw.count)

    return Sketch(
        key=f"chord {instrument} {pitch_class} {quality}",
        combined=True,
        phrase=captions.chord(draw.rng, instrument, pitch_class, quality),
        wave=wave,
        checks=chord_checks(pitch_class, quality) + _lasts(draw, instrument),
    )


def _run(draw: Draw, what: str, steps: Mapping[str, tuple[int, ...]]) -> Sketch:
    instrument = draw.pick(RUN_INSTRUMENTS)
    pitch_class, quality, up = int(draw.rng.integers(12)), draw.pick(tuple(steps)), bool(draw.rng.integers(2))
    notes = [root(pitch_class) + step for step in steps[quality]][:: 1 if up else -1]

    def wave() -> Array:
        pieces = [(i * STEP_SAMPLES, tones.tone(instrument, tones.tuned(n), STEP_SAMPLES)) for i, n in enumerate(notes)]
        return synth.placed(pieces, draw.count)

    return Sketch(
        key=f"{what} {instrument} {pitch_class} {quality} {up}",
        combined=True,
        phrase=captions.run(draw.rng, what, instrument, pitch_class, quality, up=up),
        wave=wave,
        checks=run_checks(len(notes), up=up),
    )


def _scale(draw: Draw) -> Sketch:
    return _run(draw, "scale", SCALES)


def _arpeggio(draw: Draw) -> Sketch:
    return _run(draw, "arpeggio", ARPEGGIOS)


def _bass_line(draw: Draw) -> Sketch:
    """A note a beat: twice the root, the fifth, the root."""
    pitch_class, bpm = int(draw.rng.integers(12)), captions.tempo(draw.rng)

    def wave() -> Array:
        beat = synth.beat(bpm)
        pitches = [tones.tuned(BASS_LOW + pitch_class + step) for step in (0, 0, 7, 0)]
        starts = range(0, draw.count, beat)
        # Every note goes on where a string that never stopped would be: it is then only faded in and out.
        pieces = [(at, tones.bass(pitches[i % 4], 4 * beat // 5, at)) for i, at in enumerate(starts)]
        return synth.placed(pieces, draw.count)

    return Sketch(
        key=f"bass line {pitch_class} {bpm}",
        combined=True,
        phrase=captions.bass_line(draw.rng, pitch_class, bpm),
        wave=wave,
        checks=bass_line_checks(bpm),
    )


KINDS = (
    Kind(name="note", weight=34, practice=0.8, sketch=_note, lengths=True, colours=True),
    Kind(name="plain note", weight=3, sketch=_plain_note, lengths=True, colours=True),
    Kind(name="chord", weight=11, sketch=_chord, lengths=True),
    Kind(name="scale", weight=5, practice=1.8, sketch=_scale, seconds=(3.0, 5.0)),
    Kind(name="arpeggio", weight=4, practice=2.0, sketch=_arpeggio, seconds=(1.6, 4.0)),
    Kind(name="bass line", weight=4, practice=2.0, sketch=_bass_line, seconds=(4.0, 8.0)),
)
