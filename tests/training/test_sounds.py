"""The corpus makes what its captions say, the same each time, and keeps what it holds out."""

import numpy as np
import pytest

from sa3_training import architecture, corpus, drums, measures, sounds, synth, tones
from sa3_training.truths import cents


@pytest.mark.parametrize("split", ["train", "held"])
def test_an_example_is_a_clip_with_its_caption(split: str):
    for seed in range(40):
        example = corpus.example(seed, split)
        channels, count = example.audio.shape
        assert (channels, example.audio.dtype) == (2, np.float32)
        assert example.seconds == count / 44100
        assert 1 <= example.seconds <= 10
        assert example.caption.strip() == example.caption != ""
        assert 0.1 < np.abs(example.audio).max() < 0.8
        assert example.truth.checks


def test_the_same_seed_gives_the_same_example():
    for seed in range(20):
        first, second = corpus.example(seed), corpus.example(seed)
        assert first.caption == second.caption
        np.testing.assert_array_equal(first.audio, second.audio)
    assert not np.array_equal(corpus.example(1).audio[:, :10000], corpus.example(2).audio[:, :10000])


@pytest.fixture(scope="module")
def plans() -> dict[str, list[corpus.Plan]]:
    return {split: [corpus.plan(seed, split) for seed in range(1500)] for split in corpus.SPLITS}


def test_what_is_held_out_is_never_trained_on(plans: dict[str, list[corpus.Plan]]):
    trained, held = (
        {p.sketch.key if p.sketch.combined else p.caption.lower() for p in plans[split]} for split in corpus.SPLITS
    )
    assert not trained & held
    assert len(held) > 200


def test_about_a_twelfth_of_the_notes_is_held_out(plans: dict[str, list[corpus.Plan]]):
    notes = [{p.sketch.key for p in some if p.sketch.key.startswith("note ")} for some in plans.values()]
    trained, held = map(len, notes)
    # Of 368 notes; not each of those trained on is among so few examples.
    assert 0.04 * 368 < held < 0.12 * 368
    assert trained > 0.5 * 368


def test_every_kind_is_drawn_about_as_often_as_it_weighs(plans: dict[str, list[corpus.Plan]]):
    keys = [p.sketch.key for p in plans["train"]]
    total = sum(kind.weight for kind in sounds.KINDS)
    for start, name in (("note ", "note"), ("chord ", "chord"), ("loop ", "loop"), ("hit ", "hit")):
        weight = next(kind.weight for kind in sounds.KINDS if kind.name == name) / total
        assert sum(key.startswith(start) for key in keys) / len(keys) == pytest.approx(weight, rel=0.3)


@pytest.mark.parametrize("instrument", tones.INSTRUMENTS)
@pytest.mark.parametrize("midi", [36, 49, 60, 71, 84])
def test_instruments_are_in_tune_and_do_not_alias(instrument: str, midi: int):
    wave = tones.tone(instrument, midi, synth.samples(2))
    assert abs(cents(measures.fundamental(wave), synth.hertz(midi))) < 15
    assert measures.share(wave, 12500, 22050) < 1e-4
    # Between the harmonics of a note there is nothing for aliases to hide in.
    assert measures.noisiness(wave) < 0.2


@pytest.mark.parametrize("instrument", [name for name in tones.INSTRUMENTS if name not in tones.PLAIN])
def test_bright_and_dark_lie_either_side(instrument: str):
    dark, usual, bright = (
        measures.centroid(tones.tone(instrument, 50, synth.samples(1), colour)) for colour in ("dark", "", "bright")
    )
    assert dark * 1.03 < usual < bright / 1.03


@pytest.mark.parametrize("name", drums.HITS)
def test_a_hit_ends_and_silence_follows(name: str):
    wave = synth.padded(drums.drum(name), synth.samples(4))
    assert measures.rms(wave[synth.samples(2.3) :]) == 0
    assert all(check.passes(np.stack([wave, wave]) * 0.4) for check in drums.HITS[name].checks)


def test_noise_has_the_colour_it_is_given():
    rng = np.random.default_rng(0)
    assert measures.share(synth.noise(rng, 88200, synth.band(1000, 2000)), 800, 2500) > 0.9
    assert measures.rms(synth.noise(rng, 50000, np.ones_like)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", synth.BANDS)
def test_hiss_is_noise_of_its_band_in_few_dimensions(name: str):
    wave = synth.hiss(np.random.default_rng(0), 20 * synth.GRAIN, **{name: 1.0})
    low, high = synth.BANDS[name]
    assert measures.share(wave, low * 0.8, high * 1.25) > 0.9
    assert measures.rms(wave) == pytest.approx(1, rel=0.01)
    assert measures.noisiness(np.stack([wave, wave])) > 0.35
    assert synth.GRAIN == architecture.PATCH
    grains = wave.reshape(-1, synth.GRAIN)
    assert np.linalg.matrix_rank(grains, tol=1e-2) == synth.GRAINS


@pytest.mark.parametrize("midi", range(tones.LOWEST, tones.HIGHEST + 1))
def test_tuned_notes_come_out_even_and_stay_close(midi: int):
    tuned = tones.tuned(midi)
    assert abs(tuned - midi) * 100 <= (35 if midi < 60 else 20 if midi >= 72 else 25)
    cycles = synth.hertz(tuned) * tones.FINEST / synth.RATE
    assert cycles == pytest.approx(round(cycles), abs=1e-6)


@pytest.mark.parametrize("bpm", range(60, 181))
def test_beats_fall_on_units_and_keep_the_tempo(bpm: int):
    samples = synth.beat(bpm)
    assert samples % synth.UNIT == 0
    assert 60 * synth.RATE / samples == pytest.approx(bpm, rel=0.035)


def test_a_bass_line_is_one_string_faded_in_and_out():
    """A note played later is what the note would have been by then."""
    whole, later = tones.bass(40, 40000, 0), tones.bass(40, 20000, 10000)
    ratio = later[2000:15000] / np.where(np.abs(whole[12000:25000]) > 0.05, whole[12000:25000], np.nan)
    # Only the envelope differs, slowly.
    assert np.nanmax(np.abs(np.diff(ratio))) < 0.01
