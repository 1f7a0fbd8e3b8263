"""What a caller asks for, checked before any work is done."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal, TypeGuard

import numpy as np

from sa3_engines.config import ModelConfig
from sa3_engines.errors import InvalidRequest
from sa3_runtime import lengths, sampling, schedule
from sa3_runtime.arrays import as_array
from sa3_runtime.audio import Sound, as_sound
from sa3_runtime.coding import Chunking
from sa3_runtime.finish import Finish

MOST_STEPS, MOST_ITEMS = 1000, 256
SHOWN = 80  # characters of a wrong value
SECONDS = 30.0  # of a clip where nothing says how long it is to be, and the model makes as much well
STEPS, CFG_SCALE = {True: 8, False: 50}, {True: 1.0, False: 7.0}  # by whether a model is post-trained
INPUTS = ("init_audio", "inpaint_audio")


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """When a loaded adapter works: between two noise levels, and on which layers not."""

    index: int
    interval: tuple[float, float] = (0.0, 1.0)
    skip_layers: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation. A list of prompts, negative prompts, durations or seeds has one entry per item of the batch."""

    prompt: str | Sequence[str]
    negative_prompt: str | Sequence[str] | None = None
    seconds: float | Sequence[float] | None = None  # as long as what is given to listen to, else the model's own
    batch_size: int | None = None  # as many as there are prompts
    seed: int | Sequence[int] = -1  # one seed: one stream for the batch, as in the reference; -1: chosen
    steps: int | None = None  # the model's own, like the scale of its guidance
    cfg_scale: float | None = None
    sampler: str | None = None  # the model's own
    dist_shift: str | Mapping[str, Any] | None = None  # the model's own
    apg_scale: float = 1.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    cfg_rescale: float = 0.0
    cfg_norm_threshold: float = 0.0
    init_audio: object = None  # anything `audio.as_sound` takes
    init_noise_level: float = 0.9  # how much of init_audio gives way to noise
    inpaint_audio: object = None
    inpaint_regions: Sequence[tuple[float, float]] = ()  # seconds made anew
    inpaint_mask: object = None  # instead of regions: one value per sample, 1 keeps
    continue_audio: bool = False  # make what follows the end of inpaint_audio
    resampler: Literal["exact", "fast"] = "exact"  # of given audio
    padding_seconds: float = 6.0
    sample_size: int | None = None  # the model's own
    padding: Literal["exclude", "zero"] = "exclude"  # how shorter items of a batch are masked; zero: as upstream's CPU
    chunking: Chunking = field(default_factory=Chunking)  # the windows long sound is encoded and decoded in
    chunked_decode: bool | None = None  # the model's own
    decode: bool = True  # False stops at the latents
    autoencoder_noise: bool = False  # the noise the reference adds even at inference
    truncate: bool = True  # to the duration, when all items' are the same
    truncate_prompt: bool = False  # cut a prompt that is too long instead of refusing it
    adapters: Sequence[AdapterUse] | None = None  # None: every loaded adapter, always
    finish: Finish = field(default_factory=Finish)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that fits a model, one entry per item where the items differ."""

    request: Request
    prompts: list[str]
    negatives: list[str] | None
    seconds: list[float]
    seeds: list[int] | None  # one stream per item; None: one for all
    seed: int
    steps: int
    cfg_scale: float
    sampler: str
    shift: Mapping[str, Any] | None
    sample_size: int

    @property
    def items(self) -> int:
        return len(self.prompts)


def plan(request: Request, config: ModelConfig, limits: tuple[float, float] | None = None) -> Plan:
    """Every refusal that can be made without running anything is made here. limits: the shortest and the longest clip
    that the opened model makes, which a duration that nobody asked for keeps to.
    """
    given: Any = request  # what a caller passed, whatever the annotation says
    if not isinstance(given, Request):
        raise InvalidRequest(
            f"the request is {_shown(given)}; a Request was expected: Request(prompt=..., seconds=...)"
        )
    r = _completed(_plain(request), config, limits)
    prompts = _texts(r.prompt, "prompt")
    lists: dict[str, Any] = {"negative_prompt": r.negative_prompt, "seconds": r.seconds, "seed": r.seed}
    others = {name: len(v) for name, v in lists.items() if _is_list(v)}
    if empty := [name for name, length in others.items() if not length]:
        raise InvalidRequest(f"{empty[0]} is an empty list; give one for all items, or one per item")
    items: Any = r.batch_size or len(prompts)
    if r.batch_size is None and items == 1:
        items = max(others.values(), default=1)
    if isinstance(items, bool) or not isinstance(items, int) or r.batch_size == 0 or not 1 <= items <= MOST_ITEMS:
        asked = items if r.batch_size is None else r.batch_size
        raise InvalidRequest(f"batch size {_shown(asked)}; it must be a whole number from 1 to {MOST_ITEMS}")
    sample_size: Any = config.sample_size if r.sample_size is None else r.sample_size
    if isinstance(sample_size, bool) or not isinstance(sample_size, int) or sample_size < config.ratio:
        raise InvalidRequest(
            f"sample size {_shown(sample_size)}; it must be a whole number of samples, {config.ratio} or more"
        )
    seconds = [_seconds(s, config, sample_size) for s in _spread(r.seconds, items, "seconds")]
    seed, seeds = _seeds(r.seed, items)
    steps, cfg_scale = _numbers(r)
    regions = _regions(r, max(seconds))
    _adapter_uses(r.adapters)
    _continued(r, max(seconds))
    shift = schedule_options(r.dist_shift, config)
    _levels(steps, shift, lengths.effective(config, seconds))
    return Plan(
        request=replace(r, inpaint_regions=regions, inpaint_mask=_mask(r.inpaint_mask)),
        prompts=_spread(prompts, items, "prompt"),
        negatives=None
        if r.negative_prompt is None
        else _spread(_texts(r.negative_prompt, "negative prompt"), items, "negative prompt"),
        seconds=seconds,
        seeds=seeds,
        seed=seed,
        steps=steps,
        cfg_scale=cfg_scale,
        sampler=sampling.default_for(config.objective) if r.sampler is None else sampling.find(r.sampler),
        shift=shift,
        sample_size=sample_size,
    )


def _plain(request: Request) -> Request:
    """numpy's numbers and lists as Python's, but for masks; what is given to listen to as Sounds."""
    given = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in (*INPUTS, "inpaint_mask")}
    plain = {name: v.tolist() for name, v in given.items() if isinstance(v, (np.generic, np.ndarray))}
    lists = {name: v for name, v in given.items() if isinstance(v, list) and any(isinstance(x, np.generic) for x in v)}
    plain |= {name: [_number(one) for one in v] for name, v in lists.items()}
    heard = {name: getattr(request, name) for name in INPUTS}
    sounds = {name: as_sound(value, name) for name, value in heard.items() if value is not None}
    return replace(request, **plain, **sounds)


def _completed(request: Request, config: ModelConfig, limits: tuple[float, float] | None) -> Request:
    """With what is left to the model: its steps, its guidance, and how long it makes a clip."""
    trained = config.objective == "rf_denoiser"
    shortest, longest = limits or (0.0, config.longest_seconds)
    if isinstance(request.sample_size, int):
        longest = min(longest, _held(request.sample_size, config))
    given = [sound for sound in (request.inpaint_audio, request.init_audio) if isinstance(sound, Sound)]
    # A continuation is longer than what it continues.
    usual = given[0].seconds if given and not request.continue_audio else config.usual_seconds(SECONDS)
    own = {"seconds": min(max(usual, shortest), longest), "steps": STEPS[trained], "cfg_scale": CFG_SCALE[trained]}
    return replace(request, **{name: value for name, value in own.items() if getattr(request, name) is None})


def _held(sample_size: int, config: ModelConfig) -> float:
    """Seconds. Sound is made in whole latents."""
    return sample_size // config.ratio * config.ratio / config.sample_rate


def _levels(steps: int, shift: Mapping[str, Any] | None, lengths_: np.ndarray) -> None:
    """Refuses a shift whose options it does not know, or that leads nowhere."""
    levels = schedule.build(steps, 1.0, shift, lengths_)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 1:
        raise InvalidRequest(f"distribution shift {dict(shift or {})} gives noise levels that are not from 0 to 1")


def schedule_options(shift: Any, config: ModelConfig) -> Mapping[str, Any] | None:
    """A shift by its name with its usual values, or in full; None is the model's own."""
    if shift is None:
        return config.sampling_shift
    if not isinstance(shift, (str, Mapping)) or not (isinstance(shift, str) or isinstance(shift.get("type"), str)):
        raise InvalidRequest(f"distribution shift {_shown(shift)}; a name, or a dict with a type, was expected")
    if isinstance(shift, str):
        # By its bare name, logsnr is the one models use: independent of the length.
        return schedule.DEFAULT if shift == "logsnr" else {"type": shift}
    options = {name: _number(value) for name, value in shift.items()}
    for name, value in options.items():
        if name != "type" and not (isinstance(value, int | float) and abs(value) < math.inf):
            raise InvalidRequest(f"distribution shift {options['type']}: {name} is {_shown(value)}; expected a number")
    return options


def _shown(value: object) -> str:
    """As far as it helps."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _texts(value: object, what: str) -> list[str]:
    given: list[Any] = list(value) if _is_list(value) else [value]
    texts = [text for text in given if isinstance(text, str)]
    if not given or len(texts) < len(given):
        raise InvalidRequest(f"{what} is {_shown(value)}; a text, or a list of texts, was expected")
    for text in texts:
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes that were no UTF-8
            raise InvalidRequest(f"{what} {_shown(text)} is not valid text")
    return texts


def _spread(value: Any, items: int, what: str) -> list[Any]:
    """One for all, or one per item."""
    values = list(value) if _is_list(value) else [value]
    if len(values) == 1:
        return values * items
    if len(values) != items:
        raise InvalidRequest(f"{len(values)} values of {what} for {items} items; give one, or one per item")
    return values


def _seconds(value: Any, config: ModelConfig, sample_size: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise InvalidRequest(f"duration {_shown(value)} is not a number of seconds")
    if value <= 0:
        raise InvalidRequest(f"duration {value:g} s; it must be more than 0")
    longest = min(config.seconds_max, _held(sample_size, config))
    if value <= longest and int(value * config.sample_rate) < 1:
        raise InvalidRequest(f"duration {value:g} s is less than one sample")
    if value > longest:
        whose = "this model makes" if sample_size == config.sample_size else f"a sample size of {sample_size} holds"
        most = math.floor(longest) if longest >= 1 else math.floor(longest * 1000) / 1000
        raise InvalidRequest(f"duration {value:g} s; {whose} up to {most:g} s")
    return float(value)


def _seeds(value: Any, items: int) -> tuple[int, list[int] | None]:
    many = _is_list(value)
    seeds = list(value) if many else [value]
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not -1 <= seed < 2**63:
            raise InvalidRequest(
                f"seed {_shown(seed)}; it must be a whole number from 0 to 2^63 - 1, or -1 to have one chosen"
            )
    chosen = [random.SystemRandom().randrange(99_999) if seed == -1 else int(seed) for seed in seeds]
    if not many:
        return chosen[0], None
    if len(chosen) != items:
        raise InvalidRequest(f"{len(chosen)} seeds for {items} items; give one, or one per item")
    return chosen[0], chosen


def _numbers(r: Request) -> tuple[int, float]:
    """The steps and the scale of the guidance, when every number is one that can be."""
    steps: Any = r.steps  # what a caller passed, whatever the annotation says
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise InvalidRequest(f"steps {_shown(steps)}; it must be a whole number from 1 to {MOST_STEPS}")
    for name, low, high in (
        ("cfg_scale", -1000.0, 1000.0),
        ("apg_scale", 0.0, 1.0),
        ("cfg_rescale", 0.0, 1.0),
        ("cfg_norm_threshold", 0.0, math.inf),
        ("init_noise_level", 0.0, 1.0),
        ("padding_seconds", 0.0, 600.0),
    ):
        value = getattr(r, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            wanted = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number of {low:g} or more"
            raise InvalidRequest(f"{name} {_shown(value)}; it must be {wanted}")
    if r.init_audio is not None and r.init_noise_level <= 0:
        raise InvalidRequest("init_noise_level 0 leaves nothing to do; it must be above 0")
    low, high = _pair(r.cfg_interval, "cfg_interval")
    if low > high:
        raise InvalidRequest(f"cfg_interval {low:g} to {high:g}; the first must not exceed the second")
    for name in ("continue_audio", "chunked_decode", "decode", "autoencoder_noise", "truncate", "truncate_prompt"):
        value = getattr(r, name)
        if not (isinstance(value, bool) or (value is None and name == "chunked_decode")):
            raise InvalidRequest(f"{name} {_shown(value)}; it must be true or false")
    for name, kind in (("finish", Finish), ("chunking", Chunking)):
        if not isinstance(getattr(r, name), kind):
            raise InvalidRequest(f"{name} is {_shown(getattr(r, name))}; a {kind.__name__} was expected")
    for name, choices in (("padding", ("exclude", "zero")), ("resampler", ("exact", "fast"))):
        if getattr(r, name) not in choices:
            raise InvalidRequest(f"{name} {_shown(getattr(r, name))}; choose from {', '.join(choices)}")
    assert r.cfg_scale is not None
    return steps, r.cfg_scale


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _adapter_uses(uses: Any) -> None:
    if uses is None:
        return
    if not _is_list(uses) or not all(isinstance(use, AdapterUse) for use in uses):
        raise InvalidRequest(f"adapters is {_shown(uses)}; a list of AdapterUse was expected")
    for use in uses:
        if isinstance(use.index, bool) or not isinstance(use.index, (int, np.integer)):
            raise InvalidRequest(f"the index of an adapter is {_shown(use.index)}; a whole number was expected")
        low, high = _pair(use.interval, f"the interval of adapter {use.index}")
        if low > high:
            raise InvalidRequest(
                f"the interval of adapter {use.index} is {low:g} to {high:g}; the first must not exceed the second"
            )
        if not isinstance(use.skip_layers, str):
            raise InvalidRequest(
                f"skip_layers of adapter {use.index} is {_shown(use.skip_layers)}; a text was expected"
            )
    for index, times in Counter(use.index for use in uses).items():
        if times > 1:
            raise InvalidRequest(f"adapter {index} has {times} entries in adapters; it has one interval")


def _continued(r: Request, longest: float) -> None:
    if r.continue_audio and isinstance(r.inpaint_audio, Sound) and r.inpaint_audio.seconds >= longest:
        raise InvalidRequest(
            f"inpaint_audio is {r.inpaint_audio.seconds:.1f} s long; to continue it, ask for more than that"
        )


def _pair(value: Any, what: str) -> tuple[float, float]:
    """Texts are no numbers, though `float` reads some."""
    try:
        first, second = (math.nan if isinstance(v, str) else float(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        first = second = math.nan
    if not (math.isfinite(first) and math.isfinite(second)):
        raise InvalidRequest(f"{what} is {_shown(value)}; two numbers were expected")
    return first, second


def _mask(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    try:
        mask = as_array(value).astype(np.float32)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidRequest(f"inpaint_mask is {_shown(value)}; one number per sample was expected") from e
    if not mask.size or not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise InvalidRequest("inpaint_mask must hold a number from 0 (made anew) to 1 (kept) for every sample")
    if not mask.ndim or mask.size != mask.shape[-1]:
        raise InvalidRequest(f"inpaint_mask has shape {mask.shape}; (samples,) was expected: it is one for the batch")
    return mask.reshape(-1)


def _regions(r: Request, longest: float) -> list[tuple[float, float]]:
    regions: Any = r.inpaint_regions
    if not _is_list(regions):
        raise InvalidRequest(f"inpaint_regions is {_shown(regions)}; a list of start and end seconds was expected")
    wants = bool(r.inpaint_regions) or r.inpaint_mask is not None or r.continue_audio
    if wants != (r.inpaint_audio is not None):
        raise InvalidRequest(
            "inpainting needs inpaint_audio and what to make anew: inpaint_regions, inpaint_mask or continue_audio"
        )
    if (r.inpaint_mask is not None) + bool(r.inpaint_regions) + r.continue_audio > 1:
        raise InvalidRequest("give one of inpaint_regions, inpaint_mask and continue_audio")
    pairs = [_pair(region, "an inpaint region") for region in r.inpaint_regions]
    ordered = sorted(pairs)
    for start, end in ordered:
        if start < 0:
            raise InvalidRequest(f"inpaint region {start:g} to {end:g} s; both must be 0 or more")
        if end <= start:
            raise InvalidRequest(f"inpaint region {start:g} to {end:g} s is reversed or empty")
    for start, end in ordered:
        if start >= longest:
            raise InvalidRequest(f"inpaint region {start:g} to {end:g} s lies outside the {longest:g} s that are made")
    for (_, end), (start, _) in pairwise(ordered):
        if start < end:
            raise InvalidRequest(f"inpaint regions overlap at {start:g} s; join them")
    return pairs
