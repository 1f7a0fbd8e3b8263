"""Prompt to finished audio: the one algorithm, above whichever engine runs the graphs."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np

from sa3_engines import models, selection
from sa3_engines.config import ModelConfig
from sa3_engines.engine import GRAPHS, Engine, Options, open_ahead, release
from sa3_engines.errors import BackendUnavailable, BadOutput, InvalidRequest
from sa3_runtime import coding, conditioning, lengths, remarks, sampling, schedule
from sa3_runtime.adapters import Adapters
from sa3_runtime.arrays import as_array
from sa3_runtime.audio import Sound, as_sound, fit, fix_channels
from sa3_runtime.coding import Chunking
from sa3_runtime.conditioning import Conditioner
from sa3_runtime.denoising import Denoiser, Prompts, Tokens
from sa3_runtime.finish import finish
from sa3_runtime.generation import Generation
from sa3_runtime.noise import Noise, PerItem, TorchGenerator
from sa3_runtime.request import Plan, Request, plan
from sa3_runtime.resample import resample
from sa3_runtime.tokens import Tokenizer, tokenizer_for
from sa3_runtime.watching import Clock, Watch, watched

Array = np.ndarray
SILENT = 1e-5  # -100 dBFS
CLOSED = "this pipeline is closed; load the model again"
BUSY = "this pipeline is at work in another thread; wait for it, or load another"


P = ParamSpec("P")
R = TypeVar("R")


def _alone(work: Callable[Concatenate[Pipeline, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    """For one thread at a time: engines hold a request's state, and what adapters make of the weights."""

    @wraps(work)
    def checked(self: Pipeline, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.serving.acquire(blocking=False):
            raise InvalidRequest(BUSY)
        self.depth += 1
        try:
            if self.closed and self.depth == 1:
                raise InvalidRequest(CLOSED)
            return work(self, *args, **kwargs)
        finally:
            self.depth -= 1
            self.serving.release()
            if self.closed:
                self.free()

    return checked


class Pipeline:
    """One open model. It serves one thread at a time, and refuses another: a server queues in front of it."""

    def __init__(
        self,
        engine: Engine,
        source: models.Source,
        tokenizer: Tokenizer | None = None,
        choice: selection.Choice | None = None,
    ) -> None:
        self.engine = engine
        self.source = source
        self.choice = choice
        # What it is loaded by, for a record.
        self.asked = source.name if source.folder is None or source.repo else os.fspath(source.folder)
        self.options = Options()
        self._tokenizer = tokenizer
        self._conditioner = Conditioner(engine) if source.config.dit is not None else None
        self._adapters = Adapters(engine, self._conditioner, self._idle)
        self.serving = threading.RLock()
        self.depth = 0  # of calls under way, one inside another
        self.closed = False

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "nano",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        memory: str = "normal",
        revision: str | None = None,
        needs: Collection[str] = (),
    ) -> Pipeline:
        """A name, a folder, owner/repository[/subfolder] or random:NAME[:SEED]. precision: a tier or a number type, see
        `sa3_engines.tiers`; memory "low" keeps one network in memory at a time; needs: the graphs that will be run,
        where those are not all. What `auto` took, and which bundles it passed over and why, is in `choice` then.
        """
        options = Options(device=device, precision=precision, threads=threads, memory=memory)
        name: Any = os.fspath(model) if isinstance(model, os.PathLike) else model
        if not isinstance(name, str):
            raise InvalidRequest(f"the model is {name!r}; a name or a folder was expected")
        pipeline = cls.open(models.locate(name, revision=revision), backend=backend, options=options, needs=needs)
        pipeline.asked = name
        return pipeline

    @classmethod
    def open(
        cls,
        source: models.Source,
        *,
        backend: str = "auto",
        options: Options | None = None,
        needs: Collection[str] = (),
    ) -> Pipeline:
        """A model that is located already."""
        found: Any = source  # what a caller passed, whatever the annotation says
        if not isinstance(found, models.Source):
            raise InvalidRequest(
                f"the source is {found!r}, which is not located yet; Pipeline.load takes it by its name"
            )
        named: Any = needs
        if isinstance(named, str) or not isinstance(named, Collection):
            raise InvalidRequest(f"needs is {named!r}; a collection of graphs was expected, such as ('decode',)")
        if unknown := ", ".join(sorted(f"{name}" for name in {*needs} - {*GRAPHS})):
            raise InvalidRequest(f"needs names {unknown}; the graphs are {', '.join(GRAPHS)}")
        tokenizer = tokenizer_for(source)
        engine, choice = selection.open_engine(source, backend, options, needs=needs)
        pipeline = cls(engine, source, tokenizer, choice)
        pipeline.options = options or Options()
        return pipeline

    @property
    def config(self) -> ModelConfig:
        return self.engine.config

    @property
    def adapters(self) -> Adapters:
        """What is loaded and how strong it is, for the next generation; they change an engine that has to be there."""
        if self.closed and not self.depth:
            raise InvalidRequest(CLOSED)
        return self._adapters

    @property
    def limits(self) -> tuple[float, float]:
        """The shortest and the longest clip in seconds, as the model was made and its bundle exported for."""
        shortest, longest = self.engine.support.seconds or (0.0, math.inf)
        return shortest, min(longest, self.config.longest_seconds)

    def close(self) -> None:
        """Nothing new is begun. What is under way, here or in another thread, has its engine until it ends."""
        self.closed = True
        self.free()

    def free(self) -> None:
        """Of a closed pipeline, as soon as nothing is under way: whoever ends it last asks again."""
        if self.serving.acquire(blocking=False):
            try:
                if not self.depth:
                    self.engine.close()
            finally:
                self.serving.release()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load_adapter(self, path: str | os.PathLike[str], strength: float = 1.0) -> int:
        """Adds an adapter after those there are; its number is returned."""
        return self.adapters.load(path, strength)

    @contextlib.contextmanager
    def _idle(self) -> Generator[None]:
        """What adapters are changed within: of a clip that they reached half way, the record would not be true."""
        if not self.serving.acquire(blocking=False):
            raise InvalidRequest(BUSY)
        try:
            if self.depth:
                raise InvalidRequest("adapters cannot be changed while a clip is made; change them before it or after")
            yield
        finally:
            self.serving.release()

    # Generation

    @_alone
    def generate(
        self, request: Request, watch: Watch | None = None, noise: Noise | None = None, *, last: bool = False
    ) -> Generation:
        """noise: where random draws come from; by default the request's seeds. last: nothing is asked for after this,
        so every network's memory is given back once it is done with; asked nevertheless, they are made ready again.
        """
        if self._conditioner is None or self._tokenizer is None:
            missing = "transformer" if self._conditioner is None else "tokenizer.json"
            raise InvalidRequest(f"{self.source.name} has no {missing}; it cannot make sound from a prompt")
        planned, watch = plan(request, self.config, self.limits), watched(watch)
        given = request.init_audio is not None or request.inpaint_audio is not None
        self._check_graphs(
            "text", "prepare", "step", *(("encode",) if given else ()), *(("decode",) if request.decode else ())
        )
        self._check_durations(planned.seconds)
        cuts: list[str] = []
        ids, mask = self._tokens(planned.prompts, cuts, cut=request.truncate_prompt)
        negative = None
        if planned.negatives is not None:
            negative = self._tokens(planned.negatives, cuts, cut=request.truncate_prompt)
        made = self.generate_from_tokens(planned, ids, mask, negative, watch=watch, noise=noise, last=last)
        made.warnings[:0] = dict.fromkeys(cuts)
        return made

    def _check_graphs(self, *needed: str) -> None:
        if missing := [graph for graph in needed if graph not in self.engine.support.graphs]:
            raise BackendUnavailable(
                f"the {self.engine.support.backend} bundle of {self.source.name} has no graph {' and '.join(missing)}; "
                "export it with all graphs, or take a --backend that reads the checkpoint"
            )

    def _check_durations(self, asked: Sequence[float]) -> None:
        limits = self.engine.support.seconds
        for seconds in asked:
            if limits is not None and not limits[0] <= seconds <= limits[1]:
                raise InvalidRequest(
                    f"{seconds:g} s were asked, and this bundle of {self.source.name} was exported for {limits[0]:g} "
                    f"to {limits[1]:g} s; ask for a duration within, or export it again with --max-seconds"
                )

    def _tokens(self, prompts: Sequence[str], cuts: list[str], *, cut: bool) -> Tokens:
        assert self.config.text is not None and self._tokenizer is not None
        longest = self.config.text.max_tokens
        rows = [self._tokenizer.ids(prompt) for prompt in prompts]
        for row in rows:
            if len(row) > longest:
                said = f"the prompt is {len(row)} tokens long and the model reads {longest}"
                if not cut:
                    raise InvalidRequest(
                        f"{said}: shorten it, or ask for it to be cut (--truncate-prompt, truncate_prompt=True)"
                    )
                cuts.append(f"{said}; the rest is cut")
        rows = [row[:longest] for row in rows]
        ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
        return ids, (np.arange(longest)[None] < np.array([len(row) for row in rows])[:, None]).astype(np.float32)

    @_alone
    def generate_from_tokens(
        self,
        planned: Plan,
        ids: Array,
        mask: Array,
        negative: Tokens | None = None,
        *,
        watch: Watch | None = None,
        noise: Noise | None = None,
        last: bool = False,
    ) -> Generation:
        """ids and mask (items, max_tokens), as a tokenizer gives them."""
        r, watch, clock = planned.request, watched(watch), Clock()
        if noise is not None and not callable(getattr(noise, "draw", None)):
            raise InvalidRequest(f"noise is {noise!r}; what draws was expected, see sa3_runtime.noise")
        adapters = [replace(one) for one in self.adapters.loaded]
        noise = noise or (TorchGenerator(planned.seed) if planned.seeds is None else PerItem(planned.seeds))
        total = lengths.frames(self.config, planned.seconds, r.padding_seconds, planned.sample_size)
        self._open_ahead(r, last=last)
        latents, valid = self._latents(planned, ids, mask, negative, total, noise, watch, clock, last=last)
        if last:
            release(self.engine, "prepare", "step")
        audio = ()
        if r.decode:
            with clock.measure("decode"):
                audio = self._decode(planned, latents, valid, noise, watch)
        with clock.measure("finish"):
            finished = [finish(Sound(one, self.config.sample_rate), r.finish) for one in audio]
        return Generation(
            sounds=[sound for sound, _ in finished],
            reports=[report for _, report in finished],
            latents=latents,
            plan=planned,
            seconds_spent=clock.spent,
            warnings=remarks.about(planned, [report for _, report in finished], self.source),
            adapters=adapters,
        )

    def _open_ahead(self, r: Request, *, last: bool) -> None:
        """What is run after the text encoder, the largest first. Not what adapters will change, and of a last request
        neither what takes the place of networks that are given back nor, where there is sound to encode, anything.
        """
        given = r.init_audio is not None or r.inpaint_audio is not None
        ahead = [] if self.adapters.loaded or (last and given) else ["step", "prepare"]
        if not last:
            ahead += [graph for graph, wanted in (("encode", given), ("decode", r.decode)) if wanted]
        open_ahead(self.engine, *ahead)

    def _latents(
        self,
        planned: Plan,
        ids: Array,
        mask: Array,
        negative: Tokens | None,
        total: int,
        noise: Noise,
        watch: Watch,
        clock: Clock,
        *,
        last: bool,
    ) -> tuple[Array, Array]:
        r, config = planned.request, self.config
        x = noise.draw("init", (planned.items, config.autoencoder.latent_channels, total))
        watch.at("text", 0, 1)
        with clock.measure("text"):
            assert self._conditioner is not None
            active = self.adapters.active(r.adapters, 1.0)
            prompts = Prompts(self._conditioner, (ids, mask), negative, planned.seconds, active)
        if last:
            release(self.engine, "text")
        watch.at("text", 1, 1)
        with clock.measure("encode"):
            start = self._encoded(r.init_audio, "init_audio", total, r, noise, watch)
            local = self._local(planned, total, noise, watch)
        if last:
            release(self.engine, "encode")
        if start is not None:
            level = np.float32(r.init_noise_level)
            x = start * (np.float32(1) - level) + x * level
        valid = lengths.valid(config, planned.seconds, r.padding_seconds, total)
        levels = self._levels(planned, total)
        with clock.measure("sample"):
            masked = valid if config.mask_padding else None
            denoiser = Denoiser(
                self.engine,
                self.adapters,
                planned,
                prompts,
                local,
                masked,
                total,
                lambda: watch.check("sample"),
                last=last,
            )
            state = x
            states = sampling.sample(planned.sampler, denoiser.velocity, x, levels, lambda: noise.draw("step", x.shape))
            for index in range(planned.steps):
                if watch.step is not None:
                    watch.step(index, levels[:, index], state)
                watch.at("sample", index, planned.steps)
                state = next(states)
                if not np.isfinite(state).all():
                    raise BadOutput(f"sampling step {index + 1} of {planned.steps}", "NaN or infinity")
            watch.at("sample", planned.steps, planned.steps)
        return state.astype(np.float32), valid

    def _levels(self, planned: Plan, total: int) -> Array:
        r = planned.request
        sigma_max = r.init_noise_level if r.init_audio is not None else 1.0
        effective = lengths.effective(self.config, planned.seconds)
        if not self.config.schedule_by_length:
            effective = np.full_like(effective, total)
        return schedule.build(planned.steps, sigma_max, planned.shift, effective)

    def _encoded(self, value: object, name: str, total: int, r: Request, noise: Noise, watch: Watch) -> Array | None:
        """Given audio as latents (1, channels, total); its length is cropped or filled with silence."""
        if value is None:
            return None
        sound, wanted, channels = as_sound(value, name), total * self.config.ratio, self.config.autoencoder.channels
        # What lies further behind the end than a resampler looks would be thrown away.
        needed = math.ceil(wanted * sound.rate / self.config.sample_rate) + max(sound.rate, 1000)
        samples = resample(sound.samples[:channels, :needed], sound.rate, self.config.sample_rate, r.resampler)
        samples = fix_channels(fit(samples, wanted), channels)
        watch.at("encode", 0, 1)
        latents = coding.encode(
            self.engine,
            samples[None],
            chunking=r.chunking if self.config.autoencoder.chunked else None,
            noise=noise,
            apply_noise=r.autoencoder_noise,
            tick=lambda done, of: watch.at("encode", done, of),
        )
        watch.at("encode", 1, 1)
        if not np.isfinite(latents).all():
            raise BadOutput(f"encoding {name}", "NaN or infinity")
        return latents[:, :, :total]  # the encoder fills up its last chunk

    def _local(self, planned: Plan, total: int, noise: Noise, watch: Watch) -> Array | None:
        r, config = planned.request, self.config
        if r.inpaint_audio is None:
            return None
        sound = as_sound(r.inpaint_audio, "inpaint_audio")
        regions, longest = list(r.inpaint_regions), max(planned.seconds)
        if r.continue_audio:
            regions = [(sound.seconds, longest)]
        latents = self._encoded(sound, "inpaint_audio", total, r, noise, watch)
        assert latents is not None
        mask: Any = r.inpaint_mask  # which the plan has looked at
        keep = lengths.kept_mask(config, regions, longest, total, mask)
        return np.broadcast_to(
            conditioning.local_conditioning(keep, latents), (planned.items, 1 + latents.shape[1], total)
        )

    def _decode(self, planned: Plan, latents: Array, valid: Array, noise: Noise, watch: Watch) -> Array:
        r, config = planned.request, self.config
        whole = latents.shape[2] * config.ratio
        same = len(set(planned.seconds)) == 1
        samples = int(planned.seconds[0] * config.sample_rate) if r.truncate and same else whole
        samples = min(samples, whole)
        chunked = config.autoencoder.chunked if r.chunked_decode is None else r.chunked_decode
        watch.at("decode", 0, 1)
        audio = coding.decode(
            self.engine,
            latents,
            chunking=r.chunking if chunked else None,
            samples=samples,
            noise=noise if r.autoencoder_noise else None,
            tick=lambda done, of: watch.at("decode", done, of),
        )
        if config.mask_padding:
            heard = np.repeat(valid, config.ratio, axis=1)[:, None, :samples]
            audio = np.where(heard, audio, np.float32(0))
        _check_sound(audio)
        return audio

    # Encoding and decoding on their own

    @_alone
    def encode(
        self,
        audio: object,
        *,
        chunking: Chunking | None = None,
        method: Literal["exact", "fast"] = "exact",
        watch: Watch | None = None,
    ) -> Array:
        """Anything `audio.as_sound` takes, to latents (1, channels, frames)."""
        self._check_graphs("encode")
        if method not in ("exact", "fast"):
            raise InvalidRequest(f"method {method!r}; the resampler is 'exact' or 'fast'")
        _check_windows(chunking)
        sound, watch = as_sound(audio, "audio"), watched(watch)
        samples = resample(sound.samples, sound.rate, self.config.sample_rate, method)
        samples = fix_channels(samples, self.config.autoencoder.channels)
        samples = fit(samples, -(-samples.shape[1] // self.config.ratio) * self.config.ratio)
        watch.at("encode", 0, 1)
        latents = coding.encode(
            self.engine, samples[None], chunking=chunking, tick=lambda done, of: watch.at("encode", done, of)
        )
        if not np.isfinite(latents).all():
            raise BadOutput("the encoder", "NaN or infinity")
        return latents

    @_alone
    def decode(self, latents: Array, *, chunking: Chunking | None = None, watch: Watch | None = None) -> Array:
        """Latents (items, channels, frames) to audio (items, channels, samples)."""
        self._check_graphs("decode")
        _check_windows(chunking)
        channels, watch = self.config.autoencoder.latent_channels, watched(watch)
        try:
            latents = as_array(latents)
        except (TypeError, ValueError) as e:
            raise InvalidRequest(f"the latents are no array: {e}") from e
        if latents.dtype.kind not in "fiu":
            raise InvalidRequest(f"latents of {latents.dtype}; numbers were expected")
        if latents.ndim != 3 or latents.shape[1] != channels or 0 in latents.shape:
            raise InvalidRequest(f"latents of shape {latents.shape}; (items, {channels}, frames) was expected")
        with np.errstate(over="ignore"):  # becomes infinity
            latents = latents.astype(np.float32)
        if not np.isfinite(latents).all():
            raise InvalidRequest("the latents hold NaN or infinity")
        watch.at("decode", 0, 1)
        audio = coding.decode(
            self.engine,
            latents,
            chunking=chunking,
            tick=lambda done, of: watch.at("decode", done, of),
        )
        if not np.isfinite(audio).all():
            raise BadOutput("the decoder", "NaN or infinity")
        if np.ptp(audio) == 0:
            raise BadOutput("the decoder", "a constant" if audio.any() else "silence")
        return audio


def _check_windows(chunking: Any) -> None:
    if not isinstance(chunking, Chunking | None):
        raise InvalidRequest(f"chunking is {chunking!r}; a Chunking was expected, or None for all in one pass")


def _check_sound(audio: Array) -> None:
    for index, one in enumerate(audio):
        which = "the decoder" if len(audio) == 1 else f"the decoder, in item {index},"
        if not np.isfinite(one).all():
            raise BadOutput(which, "NaN or infinity")
        if np.ptp(one) == 0:
            raise BadOutput(which, "silence" if not one.any() else "a constant")
        if np.abs(one).max() < SILENT:
            raise BadOutput(which, "silence (nothing above -100 dBFS)")
