"""What a model does to sound it is given: through the autoencoder and back, inpainting, audio to audio."""

from collections.abc import Mapping, Sequence

import numpy as np

from sa3_runtime import Pipeline, Request
from sa3_training import corpus, measures
from sa3_training.corpus import Example
from sa3_training.measures import Samples
from sa3_training.synth import RATE

QUIETEST_DB = -60.0  # under the loudest bin; below it nobody hears a difference
EDGE_SECONDS = 0.2  # around a border: a latent belongs to both sides of it
LEVELS = (0.2, 0.5, 0.9)

Report = Mapping[str, float]


def spectral_distance_db(found: Samples, wanted: Samples) -> float:
    """The rms difference of two log spectrograms, over the frames in which the wanted sound is heard."""
    length = min(found.shape[-1], wanted.shape[-1])
    ours, theirs = (measures.stft(measures.mono(a[..., :length]), 2048, 512) for a in (found, wanted))
    floor = max(float(theirs.max()) * 10 ** (QUIETEST_DB / 20), 1e-6)
    heard = theirs.max(axis=1) > floor
    if not heard.any():
        return 0.0
    difference = 20 * np.log10(np.maximum(ours[heard], floor) / np.maximum(theirs[heard], floor))
    return float(np.sqrt(np.mean(difference**2, axis=1)).mean())


def si_sdr_db(found: Samples, wanted: Samples) -> float:
    """Signal to distortion, whatever the gain."""
    length = min(found.shape[-1], wanted.shape[-1])
    ours, theirs = (a[..., :length].astype(np.float64).ravel() for a in (found, wanted))
    energy = float(theirs @ theirs)
    if energy == 0:
        return 0.0
    target = theirs * (float(ours @ theirs) / energy)
    rest = ours - target
    return float(10 * np.log10(max(float(target @ target), 1e-12) / max(float(rest @ rest), 1e-12)))


def through(pipeline: Pipeline, audio: Samples) -> Samples:
    """Encoded and decoded."""
    decoded = pipeline.decode(pipeline.encode((RATE, audio)))
    return decoded[0][:, : audio.shape[1]]


def round_trip(pipeline: Pipeline, count: int) -> Report:
    distances: list[float] = []
    ratios: list[float] = []
    for seed in range(count):
        wanted = corpus.example(seed, "held").audio
        found = through(pipeline, wanted)
        distances.append(spectral_distance_db(found, wanted))
        ratios.append(si_sdr_db(found, wanted))
    return {
        "sounds": count,
        "spectral_distance_db": float(np.mean(distances)),
        "si_sdr_median_db": float(np.median(ratios)),
    }


def steady(count: int) -> list[Example]:
    """Held-out sounds that go on for all of their clip, so that a gap in one has a right level."""
    found: list[Example] = []
    seed = 0
    while len(found) < count:
        planned = corpus.plan(seed, "held")
        if 3 <= planned.seconds <= 6 and planned.sketch.key.startswith(
            ("note s", "note triangle", "note pad", "effect")
        ):
            example = corpus.example(seed, "held")
            start, end = measures.active_span(example.audio, -20)
            if end - start > 0.85 * example.seconds:
                found.append(example)
        seed += 1
    return found


def inpainting(pipeline: Pipeline, examples: Sequence[Example]) -> Report:
    """The middle third made anew: how well the rest is kept, against what the autoencoder alone keeps."""
    kept: list[float] = []
    possible: list[float] = []
    levels: list[float] = []
    for seed, example in enumerate(examples):
        start, end = example.seconds / 3, 2 * example.seconds / 3
        request = Request(
            prompt=example.caption,
            seconds=example.seconds,
            seed=seed,
            inpaint_audio=(RATE, example.audio),
            inpaint_regions=[(start, end)],
        )
        found = pipeline.generate(request).audio[0]
        there = np.arange(found.shape[1]) / RATE
        outside = (there < start - EDGE_SECONDS) | (there > end + EDGE_SECONDS)
        inside = (there > start + EDGE_SECONDS) & (there < end - EDGE_SECONDS)
        wanted = example.audio[:, : found.shape[1]]
        kept.append(spectral_distance_db(found[:, outside], wanted[:, outside]))
        possible.append(spectral_distance_db(through(pipeline, wanted)[:, outside], wanted[:, outside]))
        levels.append(measures.decibels(measures.rms(found[:, inside]) / max(measures.rms(wanted[:, inside]), 1e-6)))
    return {
        "sounds": len(examples),
        "kept_distance_db": float(np.mean(kept)),
        "autoencoder_distance_db": float(np.mean(possible)),
        "filled_level_db": float(np.median(levels)),
        "filled_at_similar_level": float(np.mean(np.abs(levels) < 6)),
    }


def audio_to_audio(pipeline: Pipeline, examples: Sequence[Example]) -> Report:
    """Another sound's prompt, at three levels of noise: the more noise, the further from what was given."""
    distances: list[list[float]] = []
    for seed, example in enumerate(examples):
        other = examples[(seed + 1) % len(examples)]
        row: list[float] = []
        for level in LEVELS:
            request = Request(
                prompt=other.caption,
                seconds=example.seconds,
                seed=seed,
                init_audio=(RATE, example.audio),
                init_noise_level=level,
            )
            row.append(spectral_distance_db(pipeline.generate(request).audio[0], example.audio))
        distances.append(row)
    table = np.array(distances)
    means = {f"distance_db_at_{level:g}": float(d) for level, d in zip(LEVELS, table.mean(axis=0), strict=True)}
    return {"sounds": len(examples), **means, "grows": float(np.mean(table[:, -1] > table[:, 0]))}
