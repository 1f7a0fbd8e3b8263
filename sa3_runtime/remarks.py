"""What a caller should be told about a clip: what was asked for and does nothing, what of a given sound was not used,
what is not to be heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sa3_engines.config import ModelConfig
from sa3_engines.models import Source
from sa3_runtime.audio import Sound
from sa3_runtime.finish import Report
from sa3_runtime.request import INPUTS, Plan, Request

FAINT_DB = -28.0  # of a whole clip's peak; what was asked to be quiet is louder
BESIDE = 0.1  # seconds that two lengths may differ by and still be the same


def about(planned: Plan, reports: Sequence[Report], source: Source) -> list[str]:
    seconds = max(planned.seconds)
    return [
        *_about_given(planned.request, seconds, source.config),
        *_about_request(planned.request, seconds, source),
        *_about_sound(planned.request, reports, source),
    ]


def _about_given(request: Request, seconds: float, config: ModelConfig) -> Iterator[str]:
    channels = config.autoencoder.channels
    for name in INPUTS:
        sound = getattr(request, name)
        if not isinstance(sound, Sound):
            continue
        if sound.warning:
            yield sound.warning
        if len(sound.samples) > channels:
            yield f"{name} has {len(sound.samples)} channels; the first {channels} are used"
        if sound.seconds > seconds + BESIDE:
            yield f"{name} is {sound.seconds:.1f} s long; the {seconds:g} s that are made leave out what follows"
        if name == "inpaint_audio" and _keeps_silence(request, sound.seconds, seconds):
            yield f"{name} is {sound.seconds:.1f} s long; the {seconds:g} s that are made keep silence after it"
    mask, samples = request.inpaint_mask, int(seconds * config.sample_rate)
    if isinstance(mask, np.ndarray) and mask.size < samples:
        yield f"inpaint_mask holds {mask.size} of the {samples} samples that are made; what follows it is kept"
    if request.init_audio is not None and request.init_noise_level == 1:
        yield "init_audio does nothing at an init_noise_level of 1: that is noise alone"


def _keeps_silence(request: Request, end: float, seconds: float) -> bool:
    """Whether nothing is made anew between the end of the given sound and that of the clip."""
    if request.continue_audio or request.inpaint_mask is not None:
        return False
    for start, stop in sorted(request.inpaint_regions):
        if start <= end + BESIDE:
            end = max(end, stop)
    return end + BESIDE < seconds


def _about_request(request: Request, seconds: float, source: Source) -> Iterator[str]:
    config = source.config
    if seconds > config.learned_seconds + BESIDE:
        yield f"{source.name} learned from sounds of up to {config.learned_seconds:g} s; what comes after may fade away"
    if request.negative_prompt is not None and request.cfg_scale == 1:
        yield "the negative prompt does nothing at a cfg scale of 1"
    for start, end in request.inpaint_regions:
        # The mask is looked up where a latent begins; between two of them there is nothing to make anew.
        first = -(-int(start * config.sample_rate) // config.ratio) * config.ratio
        if first >= int(end * config.sample_rate):
            yield f"nothing is made anew from {start:g} to {end:g} s: that lies within one latent"


def _about_sound(request: Request, reports: Sequence[Report], source: Source) -> Iterator[str]:
    for index, report in enumerate(reports):
        which = f"item {index}: " if len(reports) > 1 else ""
        if report.true_peak_db < FAINT_DB and source.trained:
            yield (
                f"{which}next to nothing is to be heard (true peak {report.true_peak_db:+.1f} dB); "
                "other words or another seed may help"
            )
        if report.changed and request.finish.limiter is None:
            yield (
                f"{which}{report.changed:.2%} of the samples exceeded full scale and were clipped "
                f"(true peak {report.true_peak_db:+.1f} dB); a limiter would turn them down"
            )
