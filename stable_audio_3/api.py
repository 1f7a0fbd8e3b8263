"""The Python interface that scripts for Stable Audio 3 use, over the one pipeline. It holds no algorithm of its own.

Where it differs from upstream: an impossible request raises (`sa3_engines.errors`) instead of being bent silently, more
is accepted (a seed per item, `nano`, `random:NAME`, local folders), and a batch may be inpainted.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sa3_engines import models
from sa3_engines.engine import Options
from sa3_engines.errors import InvalidRequest
from sa3_runtime.arrays import described
from sa3_runtime.audio import Sound, as_sound, fit, fix_channels
from sa3_runtime.coding import Chunking
from sa3_runtime.command.progress import Bars
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import AdapterUse, Request
from sa3_runtime.resample import resample
from sa3_runtime.tokens import tokenizer_for
from sa3_runtime.watching import Watch

Name = str | os.PathLike[str]
Numbers = float | Sequence[float]
Conditioning = Sequence[Mapping[str, Any]]
Callback = Callable[[dict[str, Any]], object]
WORDS = {  # this interface's names for a request's fields
    "padding_seconds": "duration_padding_sec",
    "cfg_rescale": "scale_phi",
    "inpaint_regions, inpaint_mask and continue_audio": "inpaint_mask and inpaint_mask_start_seconds",
    "truncate ": "truncate_output_to_duration ",
    "seconds is an empty list": "duration is an empty list",
}
DURATION = 120.0  # seconds; told from a caller's own 120 by identity, since only the default gives way to a short model


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What scripts read off `model.model`."""

    sample_rate: int
    io_channels: int  # of the latents
    audio_channels: int
    downsampling_ratio: int  # samples per latent
    sample_size: int  # the most samples made at once, padding included
    diffusion_objective: str


class StableAudioModel:
    """A whole model: text to audio, audio to audio, inpainting."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._tokenizer = cache(lambda: tokenizer_for(pipeline.source))
        config = pipeline.config
        self.model = ModelFacts(
            sample_rate=config.sample_rate,
            io_channels=config.autoencoder.latent_channels,
            audio_channels=config.autoencoder.channels,
            downsampling_ratio=config.ratio,
            sample_size=config.sample_size,
            diffusion_objective=config.objective,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: Name,
        device: str | torch.device | None = None,
        model_half: bool = True,
        *,
        revision: str | None = None,
        backend: str = "torch",
    ) -> StableAudioModel:
        """A name ("medium", "nano"), a folder, "owner/repository[/subfolder]" or "random:NAME[:SEED]".

        device: "cuda", "mps" or "cpu", which must be there; None takes the best there is.
        model_half: fp16 on CUDA; elsewhere fp32 either way (fp16 is known to give noise on Apple GPUs, and is no faster
        on CPUs). The autoencoder and the text encoder run in fp32 always.
        backend: "torch" as upstream; "auto" also takes exported engines where the model has them.
        """
        device, precision = _options(device, half=model_half)
        return cls(_told(Pipeline.load(name, backend=backend, device=device, precision=precision, revision=revision)))

    @property
    def model_config(self) -> dict[str, Any]:
        """model_config.json as it is: a copy, for the caller to keep."""
        return deepcopy(dict(self.pipeline.config.raw))

    @property
    def sample_rate(self) -> int:
        return self.pipeline.config.sample_rate

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipeline.engine.support.device)

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        duration: Numbers = DURATION,
        steps: int = 8,
        cfg_scale: float = 1.0,
        batch_size: int = 1,
        seed: int | Sequence[int] = -1,
        init_audio: object = None,
        init_noise_level: float = 1.0,
        inpaint_audio: object = None,
        inpaint_mask: object = None,
        inpaint_mask_start_seconds: Numbers | None = None,
        inpaint_mask_end_seconds: Numbers | None = None,
        sample_size: int | None = None,
        truncate_output_to_duration: bool = True,
        duration_padding_sec: float = 6.0,
        apg_scale: float = 1.0,
        dist_shift: str | Mapping[str, Any] | None = None,
        return_latents: bool = False,
        chunked_decode: bool | None = None,
        conditioning: Conditioning | None = None,
        negative_conditioning: Conditioning | None = None,
        *,
        sampler_type: str | None = None,
        cfg_interval: tuple[float, float] = (0.0, 1.0),
        scale_phi: float = 0.0,
        rescale_cfg: object = None,  # accepted and ignored, as upstream does
        cfg_norm_threshold: float = 0.0,
        lora_configs: Sequence[Mapping[str, Any]] | None = None,
        callback: Callback | None = None,
        disable_tqdm: bool = False,
    ) -> Tensor:
        """Audio (batch, 2, samples) in [-1, 1], or with return_latents latents (batch, channels, frames); float32.

        It is on the CPU, or on the model's device where that is a GPU. What exceeds full scale is clamped.

        prompt, negative_prompt, duration: one, or a list with one per item; batch_size may then be left at 1.
        duration: the default gives way to what the model makes well where that is less than 120 s.
        seed: -1 chooses one; a list has one per item, and each item of one duration is what it would be alone.
        init_audio, inpaint_audio: (rate, audio) or (audio, rate), or a path.
        inpaint_mask: one value per sample, 1 keeps; or instead start and end seconds of what is made anew: floats, or
        lists of the same length.
        sample_size: the most samples made. None is the model's own; upstream silently takes 5292032 for every model,
        which cuts medium to 120 s: pass that number to have the same.
        conditioning: dicts {"prompt": ..., "seconds_total": ...}, one per item, instead of prompt and duration.
        dist_shift: "logsnr", "full", "flux", "none", or a dict with "type" and that type's options.
        chunked_decode: None does as the checkpoint says; False decodes in one pass.
        lora_configs: dicts {"lora_index": ..., "interval": (low, high), "layer_filter": ...}.
        callback: called before every step with {"i", "t", "sigma", "x"}.
        A prompt that is too long is cut, with a warning.
        """
        most = _plain(sample_size) if isinstance(_plain(sample_size), int) else self.pipeline.config.sample_size
        ratio = self.pipeline.config.ratio
        longest = min(self.pipeline.config.seconds_max, most // ratio * ratio / self.sample_rate)
        seconds = min(longest, self.pipeline.config.usual_seconds(DURATION)) if duration is DURATION else duration
        prompts, seconds = _from_conditioning(conditioning, prompt, _plain(seconds))
        negatives = _negatives(negative_conditioning, negative_prompt, seconds)
        regions = _regions(inpaint_mask_start_seconds, inpaint_mask_end_seconds)
        if (inpaint_audio is None) == (inpaint_mask is not None or bool(regions)):
            raise InvalidRequest(
                "inpainting needs inpaint_audio and what of it to make anew: inpaint_mask, or "
                "inpaint_mask_start_seconds with inpaint_mask_end_seconds"
            )
        request = Request(
            prompt=cast("str | Sequence[str]", prompts),
            negative_prompt=negatives,
            seconds=seconds,
            batch_size=None if batch_size == 1 else _plain(batch_size),
            seed=_plain(seed),
            steps=_plain(steps),
            cfg_scale=_plain(cfg_scale),
            sampler=sampler_type,
            dist_shift=dist_shift,
            apg_scale=_plain(apg_scale),
            cfg_interval=_plain(cfg_interval),
            cfg_rescale=_plain(scale_phi),
            cfg_norm_threshold=_plain(cfg_norm_threshold),
            init_audio=init_audio,
            init_noise_level=_plain(init_noise_level),
            inpaint_audio=inpaint_audio,
            inpaint_regions=regions,
            inpaint_mask=_mask(inpaint_mask),
            padding_seconds=_plain(duration_padding_sec),
            sample_size=_plain(sample_size),
            chunked_decode=chunked_decode,
            decode=not return_latents,
            truncate=truncate_output_to_duration,
            truncate_prompt=True,
            adapters=None if lora_configs is None else _adapter_uses(lora_configs),
        )
        with Bars(shown=not disable_tqdm and sys.stderr.isatty()) as bars, _upstreams_words():
            made = self.pipeline.generate(request, Watch(progress=bars, step=_step(callback)))
        for sentence in made.warnings:
            if "full scale" not in sentence and "to be heard" not in sentence:  # upstream's way, and not said there
                warnings.warn(sentence, stacklevel=2)
        return _tensor(self.pipeline, made.latents if return_latents else made.audio)

    def load_lora(self, path: Name | Sequence[Name], weight: float = 1.0) -> None:
        """Adds adapters (safetensors), in this order, after those there are. Either all of them are added or none.

        Pickled ones (.ckpt) are refused: opening them can run any code.
        """
        loaded = self.pipeline.adapters.loaded
        before = len(loaded)
        try:
            for one in path if isinstance(path, list | tuple) else [path]:
                self.pipeline.load_adapter(_path(one, "an adapter"), _plain(weight))
        except BaseException:
            del loaded[before:]
            raise

    def set_lora_strength(self, strength: float, lora_index: int | None = None, target: str | None = None) -> None:
        """Of one adapter or of all; target: "dit", "conditioner" or None for both."""
        self.pipeline.adapters.set_strength(_plain(strength), _plain(lora_index), target)


class AutoencoderModel:
    """An autoencoder alone, or a whole model's: audio to latents and back."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @classmethod
    def from_pretrained(
        cls,
        name: Name,
        device: str | torch.device | None = None,
        model_half: bool = True,
        *,
        revision: str | None = None,
        backend: str = "torch",
    ) -> AutoencoderModel:
        """As `StableAudioModel.from_pretrained`; of a whole model only the autoencoder is loaded.

        model_half has no effect: the autoencoder's attention takes differences that half precision loses.
        """
        device, precision = _options(device, half=model_half)
        source = models.locate(_path(name, "the model"), revision=revision).autoencoder_only()
        return cls(_told(Pipeline.open(source, backend=backend, options=Options(device=device, precision=precision))))

    @property
    def model_config(self) -> dict[str, Any]:
        """model_config.json as it is: a copy, for the caller to keep."""
        return deepcopy(dict(self.pipeline.config.raw))

    @property
    def sample_rate(self) -> int:
        return self.pipeline.config.sample_rate

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipeline.engine.support.device)

    def encode(self, audio: Any, sr: int, chunked: bool = False, chunk_size: int = 128, overlap: int = 32) -> Tensor:
        """Latents (batch, channels, frames).

        audio: (n,), (channels, n) or (batch, channels, n), or a list of the first two, whose lengths may differ: all
        are padded with silence to the longest, in whole frames. sr is its rate, the model's own or another.
        """
        config, rate = self.pipeline.config, _plain(sr)
        if isinstance(rate, bool) or not isinstance(rate, int):
            raise InvalidRequest(f"sr is {sr!r}; the rate of the audio was expected, a whole number")
        sounds = [as_sound((rate, one), f"audio[{index}]") for index, one in enumerate(_items(audio))]
        samples = [
            fix_channels(resample(sound.samples, sound.rate, config.sample_rate), config.autoencoder.channels)
            for sound in sounds
        ]
        frames = math.ceil(max(one.shape[1] for one in samples) / config.ratio)
        chunking = Chunking(size=_plain(chunk_size), overlap=_plain(overlap)) if chunked else None
        latents = [
            self.pipeline.encode(Sound(fit(one, frames * config.ratio), config.sample_rate), chunking=chunking)
            for one in samples
        ]
        return _tensor(self.pipeline, np.concatenate(latents))

    def decode(self, latents: Any, chunked: bool = False, chunk_size: int = 128, overlap: int = 32) -> Tensor:
        """Audio (batch, 2, samples) from latents (batch, channels, frames) or (channels, frames)."""
        array = _values(latents, "latents")
        chunking = Chunking(size=_plain(chunk_size), overlap=_plain(overlap)) if chunked else None
        return _tensor(
            self.pipeline, self.pipeline.decode(array[None] if array.ndim == 2 else array, chunking=chunking)
        )


def _options(device: str | torch.device | None, *, half: bool) -> tuple[str, str]:
    """Device and precision as backends name them; each knows what half precision means on its devices."""
    return "auto" if device is None else str(device), "auto" if half else "fp32"


def _told(pipeline: Pipeline) -> Pipeline:
    """Of "auto" only: which exports of the model are here and not what runs."""
    for reason in pipeline.choice.passed_over if pipeline.choice else ():
        warnings.warn(f"a bundle is passed over: {reason}", stacklevel=3)
    return pipeline


def _tensor(pipeline: Pipeline, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    support = pipeline.engine.support
    return tensor.to(support.device) if support.backend == "torch" else tensor


def _plain(value: Any) -> Any:
    """Scalars and vectors of numpy and torch, or lists of them, as Python's own numbers and lists."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("Sequence[Any]", value)]
    return value.tolist() if hasattr(value, "tolist") else value


def _path(value: Any, what: str) -> str:
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"{what} is {value!r}; a path was expected")
    return os.fspath(cast("Name", value))


def _values(value: Any, name: str) -> np.ndarray:
    """As float32, whatever holds them."""
    try:
        tensor = torch.as_tensor(value).detach()
        if tensor.is_complex():
            raise ValueError("complex numbers")
        return tensor.float().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as e:  # torch has one of each for what it cannot hold
        raise InvalidRequest(f"{name} must be a tensor or an array of numbers, not {described(value)}") from e


def _entries(value: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """The dicts of a list, which is what each of these arguments is."""
    entries: Any = list(value) if isinstance(value, list | tuple) else None
    if not entries and (entries is None or name != "lora_configs"):
        raise InvalidRequest(f"{name} must be a list with a dict for each item, not {described(value)}")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise InvalidRequest(f"{name} must hold dicts, not {described(entry)}")
    return entries


@contextmanager
def _upstreams_words() -> Generator[None]:
    """What is wrong is told by the names that the caller used."""
    try:
        yield
    except InvalidRequest as e:
        said = str(e)
        for ours, theirs in WORDS.items():
            said = said.replace(ours, theirs)
        if said == str(e):
            raise
        raise type(e)(said) from e


def _from_conditioning(
    entries: Conditioning | None, prompt: Any, seconds: Any, name: str = "conditioning"
) -> tuple[Any, Any]:
    """Prompts and durations, one per entry; what an entry leaves out is taken from the arguments."""
    if entries is None:
        return prompt, seconds
    for entry in _entries(entries, name):
        if unknown := ", ".join(sorted(map(str, set(entry) - {"prompt", "seconds_total"}))):
            raise InvalidRequest(f"{name} has {unknown}; the model knows prompt and seconds_total")
        if prompt is None and "prompt" not in entry:
            raise InvalidRequest(f"an entry of {name} lacks its prompt, and there is no other to take its place")
    for key, values in (("prompt", prompt), ("seconds_total", seconds)):
        count = len(values) if isinstance(values, list | tuple) else 1
        borrowed = any(key not in entry for entry in entries)
        if borrowed and count > 1 and count != len(entries):
            raise InvalidRequest(f"{count} values of {key} for {len(entries)} entries of {name}")
    return (
        [entry.get("prompt", _at(prompt, index)) for index, entry in enumerate(entries)],
        [_plain(entry.get("seconds_total", _at(seconds, index))) for index, entry in enumerate(entries)],
    )


def _negatives(entries: Conditioning | None, prompt: Any, seconds: Any) -> Any:
    """Its prompts; as for durations, both sides of the guidance have the same."""
    prompts, _ = _from_conditioning(entries, prompt, None, "negative_conditioning")
    stated = [_plain(entry["seconds_total"]) for entry in entries or () if "seconds_total" in entry]
    for index in range(max(len(stated), len(_several(seconds))) if stated else 0):
        if _at(stated, index) != _at(seconds, index):
            raise InvalidRequest(f"negative_conditioning has seconds_total {stated} and the durations are {seconds}")
    return prompts


def _at(value: Any, index: int) -> Any:
    """One for all, or one each."""
    if not isinstance(value, list | tuple) or not value:
        return value
    if len(value) > 1 and index >= len(value):
        raise InvalidRequest(f"{len(value)} values for more than {index} items; give one, or one per item")
    return value[index % len(value)]


def _regions(start: Any, end: Any) -> list[tuple[float, float]]:
    starts, ends = _several(start), _several(end)
    if len(starts) != len(ends):
        raise InvalidRequest(
            f"{len(starts)} inpaint_mask_start_seconds and {len(ends)} inpaint_mask_end_seconds; they come in pairs"
        )
    return list(zip(starts, ends, strict=True))


def _several(value: Any) -> list[float]:
    value = _plain(value)
    return [] if value is None else [_plain(one) for one in value] if isinstance(value, list | tuple) else [value]


def _mask(mask: Any) -> np.ndarray | None:
    if mask is None:
        return None
    array = _values(mask, "inpaint_mask")
    if not array.ndim or array.size != array.shape[-1]:
        raise InvalidRequest(f"inpaint_mask has shape {array.shape}; (samples,) was expected: it is one for the batch")
    return array.reshape(-1)


def _adapter_uses(configs: Any) -> list[AdapterUse]:
    return [_adapter_use(one) for one in _entries(configs, "lora_configs")]


def _adapter_use(config: Mapping[str, Any]) -> AdapterUse:
    if unknown := set(config) - {"lora_index", "interval", "layer_filter"}:
        raise InvalidRequest(
            f"lora_configs has {', '.join(sorted(unknown))}; it knows lora_index, interval, layer_filter"
        )
    if "lora_index" not in config:
        raise InvalidRequest("an entry of lora_configs lacks its lora_index")
    interval = config.get("interval")
    return AdapterUse(
        index=_plain(config["lora_index"]),
        interval=(0.0, 1.0) if interval is None else _plain(interval),
        skip_layers=_joined(config.get("layer_filter") or ""),
    )


def _joined(layers: Any) -> Any:
    """What is no list of texts is for the request to judge."""
    given: list[Any] = list(layers) if isinstance(layers, list | tuple) else []
    return ",".join(given) if given and all(isinstance(one, str) for one in given) else layers


def _step(callback: Callback | None) -> Callable[[int, np.ndarray, np.ndarray], None] | None:
    if callback is None:
        return None
    if not callable(callback):
        raise InvalidRequest(f"callback is {callback!r}; a function was expected")

    def step(index: int, levels: np.ndarray, state: np.ndarray) -> None:
        t = torch.from_numpy(levels.copy())
        callback({"i": index, "t": t, "sigma": t, "x": torch.from_numpy(state.copy())})

    return step


def _items(audio: Any) -> list[Any]:
    """One entry per item, each a tensor, so that its channels come first."""
    try:
        if isinstance(audio, list | tuple):
            entries = [torch.as_tensor(one) for one in cast("Sequence[Any]", audio)]
        else:
            tensor = torch.as_tensor(audio)
            entries = list(tensor) if tensor.ndim == 3 else [tensor]
    except (TypeError, ValueError, RuntimeError) as e:  # torch has one of each for what it cannot hold
        raise InvalidRequest(f"audio must be a tensor or an array, or a list of them, not {described(audio)}") from e
    if not entries:
        raise InvalidRequest("there is no audio to encode: the batch is empty")
    return entries
