"""The measures know right from wrong: the corpus' own sounds pass, others fail."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sa3_engines.errors import BadOutput
from sa3_runtime import Pipeline, Request
from sa3_training import corpus, drums, effects, fidelity, judging, measures, music, quality, synth, tones, truths
from sa3_training.judging import Maker
from sa3_training.measures import Samples
from sa3_training.truths import Check
from sa3_training.wordings import PAIRS, WORDINGS

EXAMPLES = 80


def stereo(wave: Samples) -> Samples:
    return np.stack([wave, wave]).astype(np.float32) * np.float32(0.4)


def tone(midi: float, instrument: str = "saw", seconds: float = 2) -> Samples:
    return stereo(tones.tone(instrument, midi, synth.samples(seconds)))


def hiss(seconds: float = 3) -> Samples:
    return stereo(0.3 * synth.noise(np.random.default_rng(0), synth.samples(seconds), np.ones_like))


def kicks(bpm: float, seconds: float = 6) -> Samples:
    times = np.arange(0, seconds, 60 / bpm)
    return stereo(synth.placed([(synth.samples(float(t)), drums.drum("kick")) for t in times], synth.samples(seconds)))


@pytest.fixture(scope="module")
def examples() -> list[corpus.Example]:
    return [corpus.example(seed, split) for split in corpus.SPLITS for seed in range(EXAMPLES // 2)]


def test_the_corpus_passes_its_own_truths(examples: Sequence[corpus.Example]):
    failed = [e.caption for e in examples if not e.truth.passes(e.audio)]
    assert len(failed) <= 0.03 * len(examples), failed


def test_other_sounds_fail_them(examples: Sequence[corpus.Example]):
    others = [*examples[1:], examples[0]]
    passed = [e.caption for e, other in zip(examples, others, strict=True) if e.truth.passes(other.audio)]
    assert len(passed) < 0.1 * len(examples), passed


def test_noise_and_silence_fail_them(examples: Sequence[corpus.Example]):
    noise = hiss()
    passed = [e.caption for e in examples if e.truth.passes(noise)]
    assert len(passed) < 0.1 * len(examples), passed
    assert not any(e.truth.passes(np.zeros((2, 88200), np.float32)) for e in examples)


@pytest.mark.parametrize("instrument", tones.INSTRUMENTS)
def test_another_note_fails(instrument: str):
    check = truths.Pitch(synth.hertz(57))
    assert check.passes(tone(57, instrument))
    for wrong in (56, 58, 57 - 12, 57 + 12, 57 + 7):
        assert not check.passes(tone(wrong, instrument))
    assert truths.PitchClass(synth.hertz(57)).passes(tone(69, instrument))


def test_a_note_without_its_fundamental_keeps_its_pitch():
    partials = (0.0, 0.0, 1.0, 1.0, 0.8, 0.6)
    wave = synth.periodic(synth.cycles(220, 88200), partials, 220)
    assert truths.Pitch(220).passes(stereo(wave))


def test_hiss_under_a_note_does_not_hide_it():
    assert truths.Pitch(synth.hertz(60)).passes(tone(60, "sine") + hiss(2) * np.float32(0.2))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (music.chord_checks(0, "major"), [60, 64, 67], [60, 63, 67]),
        (music.chord_checks(9, "minor"), [57, 60, 64], [57, 61, 64]),
        (music.chord_checks(7, "major"), [55, 59, 62], [60, 64, 67]),
    ],
)
def test_chords_are_told_apart(check: tuple[Check, ...], right: list[int], wrong: list[int]):
    for instrument in music.CHORD_INSTRUMENTS:
        made, other = (sum((tone(n, instrument) for n in notes), np.zeros(1)) for notes in (right, wrong))
        assert check[0].passes(made.astype(np.float32))
        assert not check[0].passes(other.astype(np.float32))


@pytest.mark.parametrize("bpm", [60, 97, 120, 180])
def test_a_tempo_is_found_and_another_is_not(bpm: int):
    check = truths.Tempo(bpm, strict=True)
    assert check.passes(kicks(bpm, 8))
    for wrong in (bpm * 1.08, bpm * 0.92, bpm / 2, bpm * 2):
        assert not check.passes(kicks(wrong, 8))
    assert not check.passes(hiss())
    assert not check.passes(tone(40))


def test_a_sweep_backwards_fails():
    rise = synth.sine(synth.glide(np.geomspace(150, 3000, 88200)))
    up, down = effects.sweep_checks(up=True)[0], effects.sweep_checks(up=False)[0]
    assert up.passes(stereo(rise))
    assert not down.passes(stereo(rise))
    assert down.passes(stereo(rise[::-1]))
    assert not up.passes(hiss())
    assert not up.passes(tone(60))


def test_sides_and_levels():
    left = tone(60) * np.array([[1], [0.2]], np.float32)
    assert truths.Pan("left").passes(left)
    assert not truths.Pan("right").passes(left)
    assert truths.Pan("right").passes(left[::-1])
    assert truths.Pan("centre").passes(tone(60))
    assert not truths.Pan("centre").passes(left)
    assert truths.Level("loud").passes(tone(60) * np.float32(1.8))
    assert not truths.Level("loud").passes(tone(60))
    assert truths.Level("quiet").passes(tone(60) * np.float32(0.3))
    assert not truths.Level("quiet").passes(tone(60))


def test_counts_and_lengths():
    three = stereo(synth.placed([(synth.samples(i * 0.5), drums.drum("clap")) for i in range(3)], synth.samples(3)))
    assert [n for n in range(1, 6) if truths.Count(n).passes(three)] == [3]
    short = stereo(synth.padded(tones.tone("sine", 60, synth.samples(0.5)), synth.samples(3)))
    assert truths.Lasts(0.3, 0.7).passes(short)
    assert not truths.Lasts(0.3, 0.7).passes(tone(60))


def test_noise_and_tones_are_told_apart():
    assert truths.Noisy().passes(hiss())
    assert not truths.Noisy(noise=False).passes(hiss())
    assert truths.Noisy(noise=False).passes(tone(60))
    assert not truths.Noisy().passes(tone(60))


# What judges a model


class Oracle:
    """A pipeline that answers with the corpus' own sounds where it can, and is silent where it cannot."""

    def __init__(self) -> None:
        self.known = {p.text: p for p in judging.prompts() if p.origin == "held"}

    def generate(self, request: Request) -> Any:
        if request.inpaint_audio is not None or request.init_audio is not None:
            _, audio = cast("tuple[int, Samples]", request.inpaint_audio or request.init_audio)
            level = request.init_noise_level if request.init_audio is not None else 0.0
            return SimpleNamespace(audio=(audio + np.float32(level) * hiss(11)[:, : audio.shape[1]])[None])
        prompt = self.known.get(str(request.prompt))
        if prompt is None:
            raise BadOutput("the decoder", "silence")
        audio = corpus.example(prompt.seed, "held").audio
        return SimpleNamespace(sounds=[SimpleNamespace(samples=audio)], audio=audio[None])

    def encode(self, audio: tuple[int, Samples]) -> Samples:
        return audio[1][None]

    def decode(self, latents: Samples) -> Samples:
        return latents


def test_prompts_are_many_and_spread():
    every = judging.prompts()
    assert len(every) + len(PAIRS) >= 250
    assert {p.origin for p in every} == {"held", "written"}
    assert all(p.truth.checks for p in every)
    assert [len(judging.prompts(n)) for n in (1, 7, 40)] == [1, 7, 40]
    assert {p.origin for p in judging.prompts(8)} == {"held", "written"}
    assert len({w.prompt for w in WORDINGS}) == len(WORDINGS)


def test_right_answers_pass_and_silence_fails():
    report = judging.measure(Maker(cast("Pipeline", Oracle())), "oracle", limit=16)
    held = [o for o in report.outcomes if o.origin == "held"]
    assert held
    assert all(o.passed for o in held)
    silent = [o for o in report.outcomes if o.origin == "written"]
    assert silent
    assert not any(o.passed or not o.error for o in silent)
    assert sum(o.passed for o in report.exchanged) <= 1
    assert report.fidelity["autoencoder"]["spectral_distance_db"] == 0
    assert report.fidelity["autoencoder"]["si_sdr_median_db"] > 80
    assert report.fidelity["inpainting"]["kept_distance_db"] == 0
    assert report.fidelity["inpainting"]["filled_at_similar_level"] == 1
    assert report.fidelity["audio to audio"]["grows"] == 1
    lines = quality.table([report, report])
    assert any(line.startswith("all of the prompt (held)") and "100%" in line for line in lines)


def test_the_command_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    report = judging.Report("m", [judging.Outcome("a kick", 2.0, 1, "held", {"spectrum": True, "length": False})])
    monkeypatch.setattr(quality, "_measured", lambda model, args: report)
    parser = argparse.ArgumentParser()
    quality.add_arguments(parser)
    found = tmp_path / "found.json"
    assert quality.run(parser.parse_args(["m", "--against", "none", "--json", str(found)])) == 0
    (summary,) = json.loads(found.read_text())
    assert summary["properties"]["spectrum"] == {"passed": 1, "of": 1}
    assert summary["properties"]["length"] == {"passed": 0, "of": 1}
    assert "spectrum" in capsys.readouterr().out


def test_pairs_compare_what_they_say():
    loud, quiet = tone(60), tone(60) * np.float32(0.3)
    sides = [tone(60) * np.array(gains, np.float32)[:, None] for gains in ((1, 0.1), (0.1, 1))]
    cases = {
        "loud or quiet": (loud, quiet),
        "bright or dark": (tone(48, "saw"), tone(48, "pad")),
        "long or short": (tone(60, seconds=3), tone(60, seconds=1)),
        "left or right": (sides[0], sides[1]),
        "high or low": (tone(72), tone(48)),
        "fast or slow": (kicks(160), kicks(80)),
    }
    assert cases.keys() == judging.COMPARISONS.keys() == {p.property for p in PAIRS}
    for name, (more, less) in cases.items():
        assert judging.COMPARISONS[name](more, less), name
        assert not judging.COMPARISONS[name](less, more), name
        assert not judging.COMPARISONS[name](more, more), name


def test_distance_is_nothing_for_the_same_and_grows():
    wanted = tone(60)
    assert fidelity.spectral_distance_db(wanted, wanted) == 0
    near, far = wanted + hiss(2) * np.float32(0.01), hiss(2)
    assert 0 < fidelity.spectral_distance_db(near, wanted) < fidelity.spectral_distance_db(far, wanted)
    assert fidelity.si_sdr_db(wanted * np.float32(0.5), wanted) > 60
    assert fidelity.si_sdr_db(hiss(2), wanted) < 0
    assert measures.fundamental(np.zeros((2, 44100), np.float32)) == 0
