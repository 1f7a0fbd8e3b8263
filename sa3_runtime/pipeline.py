"""Prompt to finished audio: the one algorithm, above whichever engine runs the graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sa3_engines import adapters as adapters_file
from sa3_engines import graphs, models, selection, tables
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Adaptable, Engine, Options, Outputs
from sa3_engines.errors import BackendUnavailable, BadOutput, Cancelled, InvalidRequest
from sa3_runtime import coding, conditioning, lengths, sampling, schedule
from sa3_runtime.audio import Sound, as_sound, fit, fix_channels
from sa3_runtime.coding import Chunking
from sa3_runtime.conditioning import Conditioner, Context
from sa3_runtime.finish import Report, finish
from sa3_runtime.guidance import Guidance
from sa3_runtime.noise import Noise, PerItem, TorchGenerator
from sa3_runtime.request import AdapterUse, Plan, Request, plan
from sa3_runtime.resample import resample
from sa3_runtime.tokens import Tokenizer, tokenize, tokenizer_for

Array = np.ndarray
SILENT = 1e-5  # -100 dBFS


@dataclass(frozen=True)
class Progress:
    """Where a generation is: stages are text, encode, sample, decode."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a caller may hang on a running generation. Cancelling takes effect before the next graph runs."""

    progress: Callable[[Progress], None] | None = None
    cancelled: Callable[[], bool] | None = None
    step: Callable[[int, Array, Array], None] | None = None  # index, levels (items,), the state before that step

    def at(self, stage: str, done: int, total: int) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled(f"cancelled during {stage}")
        if self.progress is not None:
            self.progress(Progress(stage, done, total))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What came out, and what is needed to make it again."""

    sounds: list[Sound]
    reports: list[Report]
    latents: Array
    plan: Plan
    seconds_spent: Mapping[str, float]
    warnings: list[str]

    @property
    def audio(self) -> Array:
        """(items, channels, samples)"""
        return np.stack([sound.samples for sound in self.sounds])


@dataclass
class Loaded:
    """An adapter in the pipeline; strengths can be changed between generations."""

    adapter: Adapter
    path: Path
    strength: float = 1.0
    conditioner_strength: float = 1.0


@dataclass
class Clock:
    spent: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - start


class Pipeline:
    """One open model. Not for several threads at once: a server queues in front of it."""

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
        self.adapters: list[Loaded] = []
        self._tokenizer = tokenizer
        self._conditioner = Conditioner(engine) if source.config.dit is not None else None
        self._set: tuple[Any, ...] = ()

    @classmethod
    def load(
        cls,
        model: str = "nano",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        revision: str | None = None,
    ) -> Pipeline:
        """A name, a folder, owner/repository[/subfolder] or random:NAME[:SEED]."""
        if threads is not None and threads < 1:
            raise InvalidRequest(f"threads {threads}; it must be 1 or more")
        source = models.locate(model, revision=revision)
        tokenizer = tokenizer_for(source)
        options = Options(device=device, precision=precision, threads=threads)
        engine, choice = selection.open_engine(source, backend, options)
        return cls(engine, source, tokenizer, choice)

    @property
    def config(self) -> ModelConfig:
        return self.engine.config

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Adapters

    def load_adapter(self, path: str | Path, strength: float = 1.0) -> int:
        """Adds an adapter after those there are; its number is returned."""
        if not isinstance(self.engine, Adaptable) or not self.engine.support.adapters:
            raise BackendUnavailable(f"the {self.engine.support.backend} engine cannot run adapters on this model")
        assert self._conditioner is not None
        adapter = adapters_file.load(Path(path))
        adapters_file.check_fits(adapter, {**self.engine.adaptable(), **self._conditioner.shapes})
        self.adapters.append(Loaded(adapter, Path(path), strength, strength))
        return len(self.adapters) - 1

    def set_adapter_strength(self, strength: float, index: int | None = None, target: str | None = None) -> None:
        """Of one adapter or all; of its part in the transformer ("dit"), in the conditioners ("conditioner") or both."""
        if target not in (None, "dit", "conditioner"):
            raise InvalidRequest(f"target {target!r}; it is 'dit', 'conditioner' or None for both")
        if not np.isfinite(strength):
            raise InvalidRequest(f"adapter strength {strength!r} is not a number")
        if index is not None and not 0 <= index < len(self.adapters):
            raise InvalidRequest(f"no adapter {index}; {len(self.adapters)} are loaded")
        for one in self.adapters if index is None else [self.adapters[index]]:
            if target in (None, "dit"):
                one.strength = strength
            if target in (None, "conditioner"):
                one.conditioner_strength = strength

    # Generation

    def generate(self, request: Request, watch: Watch | None = None, noise: Noise | None = None) -> Generation:
        """noise: where random draws come from; by default the request's seeds."""
        if self._conditioner is None or self._tokenizer is None:
            missing = "a transformer" if self._conditioner is None else "a tokenizer.json"
            raise InvalidRequest(f"{self.source.name} has no {missing}; it cannot make sound from a prompt")
        planned = plan(request, self.config)
        ids, mask = self._tokens(planned.prompts, cut=request.truncate_prompt)
        negative = None
        if planned.negatives is not None:
            negative = self._tokens(planned.negatives, cut=request.truncate_prompt)
        return self.generate_from_tokens(planned, ids, mask, negative, watch=watch, noise=noise)

    def _tokens(self, prompts: Sequence[str], *, cut: bool) -> tuple[Array, Array]:
        assert self.config.text is not None and self._tokenizer is not None
        longest = self.config.text.max_tokens
        rows = [tokenize(self._tokenizer, prompt, longest, truncate=cut) for prompt in prompts]
        ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
        return ids, (np.arange(longest)[None] < np.array([len(row) for row in rows])[:, None]).astype(np.float32)

    def generate_from_tokens(
        self,
        planned: Plan,
        ids: Array,
        mask: Array,
        negative: tuple[Array, Array] | None = None,
        *,
        watch: Watch | None = None,
        noise: Noise | None = None,
    ) -> Generation:
        """ids and mask (items, max_tokens), as a tokenizer gives them."""
        r, watch, clock = planned.request, watch or Watch(), Clock()
        noise = noise or (TorchGenerator(planned.seed) if planned.seeds is None else PerItem(planned.seeds))
        total = lengths.frames(self.config, planned.seconds, r.padding_seconds, planned.sample_size)
        latents, valid = self._latents(planned, ids, mask, negative, total, noise, watch, clock)
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
            warnings=_warnings([report for _, report in finished], r),
        )

    def _latents(
        self,
        planned: Plan,
        ids: Array,
        mask: Array,
        negative: tuple[Array, Array] | None,
        total: int,
        noise: Noise,
        watch: Watch,
        clock: Clock,
    ) -> tuple[Array, Array]:
        r, config = planned.request, self.config
        x = noise.draw("init", (planned.items, config.autoencoder.latent_channels, total))
        watch.at("text", 0, 1)
        with clock.measure("text"):
            prompts = _Prompts(self._conditioner, ids, mask, negative, planned.seconds)
            prompts.refresh(self._active(r.adapters, 1.0))
        watch.at("text", 1, 1)
        with clock.measure("encode"):
            start = self._encoded(r.init_audio, "init_audio", total, r, noise, watch)
            local = self._local(planned, total, noise, watch)
        if start is not None:
            level = np.float32(r.init_noise_level)
            x = start * (np.float32(1) - level) + x * level
        valid = lengths.valid(config, planned.seconds, r.padding_seconds, total)
        levels = self._levels(planned)
        with clock.measure("sample"):
            model = _Model(self, planned, prompts, local, valid if config.mask_padding else None, total, watch)
            state = x
            states = sampling.sample(planned.sampler, model.velocity, x, levels, lambda: noise.draw("step", x.shape))
            for index in range(r.steps):
                if watch.step is not None:
                    watch.step(index, levels[:, index], state)
                watch.at("sample", index, r.steps)
                state = next(states)
                if not np.isfinite(state).all():
                    raise BadOutput(f"sampling step {index + 1} of {r.steps}", "NaN or infinity")
            watch.at("sample", r.steps, r.steps)
        return state.astype(np.float32), valid

    def _levels(self, planned: Plan) -> Array:
        r = planned.request
        sigma_max = r.init_noise_level if r.init_audio is not None else 1.0
        effective = lengths.effective(self.config, planned.seconds)
        if not self.config.schedule_by_length:
            effective = np.full_like(effective, planned.sample_size // self.config.ratio)
        return schedule.build(r.steps, sigma_max, planned.shift, effective)

    def _encoded(
        self, value: object, name: str, total: int, r: Request, noise: Noise, watch: Watch
    ) -> Array | None:
        """Given audio as latents (1, channels, total); its length is cropped or filled with silence."""
        if value is None:
            return None
        sound = as_sound(value, name)
        samples = resample(sound.samples, sound.rate, self.config.sample_rate, r.resampler)
        samples = fix_channels(fit(samples, total * self.config.ratio), self.config.autoencoder.channels)
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
        return latents

    def _local(self, planned: Plan, total: int, noise: Noise, watch: Watch) -> Array | None:
        r, config = planned.request, self.config
        if r.inpaint_audio is None:
            return None
        sound = as_sound(r.inpaint_audio, "inpaint_audio")
        regions, longest = list(r.inpaint_regions), max(planned.seconds)
        if r.continue_audio:
            if sound.seconds >= longest:
                raise InvalidRequest(
                    f"inpaint_audio is {sound.seconds:.1f} s long; to continue it, ask for more than that"
                )
            regions = [(sound.seconds, longest)]
        latents = self._encoded(sound, "inpaint_audio", total, r, noise, watch)
        assert latents is not None
        mask = None if r.inpaint_mask is None else np.asarray(r.inpaint_mask)
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
        watch.at("decode", 0, 1)
        audio = coding.decode(
            self.engine,
            latents,
            chunking=r.chunking if config.autoencoder.chunked else None,
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

    def encode(
        self, audio: object, *, chunking: Chunking | None = None, method: str = "exact", watch: Watch | None = None
    ) -> Array:
        """Anything `audio.as_sound` takes, to latents (1, channels, frames)."""
        sound, watch = as_sound(audio, "audio"), watch or Watch()
        samples = resample(sound.samples, sound.rate, self.config.sample_rate, "fast" if method == "fast" else "exact")
        samples = fix_channels(samples, self.config.autoencoder.channels)
        samples = fit(samples, -(-samples.shape[1] // self.config.ratio) * self.config.ratio)
        watch.at("encode", 0, 1)
        latents = coding.encode(
            self.engine, samples[None], chunking=chunking, tick=lambda done, of: watch.at("encode", done, of)
        )
        if not np.isfinite(latents).all():
            raise BadOutput("the encoder", "NaN or infinity")
        return latents

    def decode(self, latents: Array, *, chunking: Chunking | None = None, watch: Watch | None = None) -> Array:
        """Latents (items, channels, frames) to audio (items, channels, samples)."""
        channels, watch = self.config.autoencoder.latent_channels, watch or Watch()
        if latents.ndim != 3 or latents.shape[1] != channels or latents.shape[2] == 0:
            raise InvalidRequest(f"latents of shape {latents.shape}; (items, {channels}, frames) was expected")
        if not np.isfinite(latents).all():
            raise InvalidRequest("the latents hold NaN or infinity")
        watch.at("decode", 0, 1)
        audio = coding.decode(
            self.engine,
            latents.astype(np.float32),
            chunking=chunking,
            tick=lambda done, of: watch.at("decode", done, of),
        )
        if not np.isfinite(audio).all():
            raise BadOutput("the decoder", "NaN or infinity")
        return audio

    def _active(self, uses: Sequence[AdapterUse] | None, t: float | None) -> list[ActiveAdapter]:
        """The adapters at work at noise level t."""
        if uses is None:
            uses = [AdapterUse(index=index) for index in range(len(self.adapters))]
        settings = {use.index: use for use in uses}
        for index in settings:
            if not 0 <= index < len(self.adapters):
                raise InvalidRequest(f"no adapter {index}; {len(self.adapters)} are loaded")
        active: list[ActiveAdapter] = []
        for index, one in enumerate(self.adapters):
            use = settings.get(index, AdapterUse(index=index))
            working = t is None or use.interval[0] <= t <= use.interval[1]
            active.append(
                ActiveAdapter(
                    adapter=one.adapter,
                    strength=one.strength if working else 0.0,
                    conditioner_strength=one.conditioner_strength,
                    skip=adapters_file.layer_filter(use.skip_layers),
                )
            )
        return active

    def use_adapters(self, active: Sequence[ActiveAdapter]) -> bool:
        """Puts adapters into the engine; False when they are what is there already."""
        wanted = tuple((id(a.adapter), a.strength, a.skip) for a in active if a.strength)
        if wanted == self._set:
            return False
        assert isinstance(self.engine, Adaptable)
        self.engine.set_adapters([a for a in active if a.strength])
        self._set = wanted
        return True

    def active_adapters(self, request: Request, t: float) -> list[ActiveAdapter]:
        return self._active(request.adapters, t)


class _Prompts:
    """The contexts with and without guidance. Adapters on the conditioners change them between generations only."""

    def __init__(
        self,
        conditioner: Conditioner | None,
        ids: Array,
        mask: Array,
        negative: tuple[Array, Array] | None,
        seconds: Sequence[float],
    ) -> None:
        assert conditioner is not None
        self._conditioner, self._ids, self._mask = conditioner, ids, mask
        self._negative, self._seconds = negative, np.array(seconds, np.float32)

    def refresh(self, active: list[ActiveAdapter]) -> None:
        c = self._conditioner
        self.global_cond = c.seconds(self._seconds, active)
        self.with_prompt = c.context(self._ids, self._mask, self.global_cond)
        items, width = self.global_cond.shape
        self.without = (
            conditioning.without_prompt(items, width)
            if self._negative is None
            else c.context(*self._negative, self.global_cond, negative=True)
        )


class _Model:
    """The velocity at a state and level: guidance, adapters by level, and the engine's prepared inputs kept."""

    def __init__(
        self,
        pipeline: Pipeline,
        planned: Plan,
        prompts: _Prompts,
        local: Array | None,
        valid: Array | None,
        total: int,
        watch: Watch,
    ) -> None:
        r = planned.request
        self._pipeline, self._request, self._prompts, self._local = pipeline, r, prompts, local
        self._total, self._watch = total, watch
        # Where every frame of every item is sound there is nothing to mask.
        self._valid = None if valid is None or valid.all() else valid
        self._guidance = Guidance(
            scale=r.cfg_scale,
            apg_scale=r.apg_scale,
            interval=r.cfg_interval,
            rescale=r.cfg_rescale,
            norm_threshold=r.cfg_norm_threshold,
        )
        self._prepared: dict[bool, Outputs] = {}
        self._most = pipeline.engine.support.max_batch

    def velocity(self, x: Array, t: Array) -> Array:
        if self._watch.cancelled is not None and self._watch.cancelled():
            raise Cancelled("cancelled during sample")
        if self._pipeline.adapters and self._pipeline.use_adapters(
            self._pipeline.active_adapters(self._request, float(t[0]))
        ):
            self._prepared.clear()
        if not self._guidance.active(t):
            return self._run(x, t, guided=False)
        both = self._run(np.concatenate((x, x)), np.concatenate((t, t)), guided=True)
        return self._guidance.combine(x, t, both[: len(x)], both[len(x) :], self._valid)

    def _run(self, x: Array, t: Array, *, guided: bool) -> Array:
        engine = self._pipeline.engine
        assert engine.config.dit is not None
        if guided not in self._prepared:
            self._prepared[guided] = self._prepare(guided=guided)
        features = tables.timestep_features(t, engine.config.dit)
        inputs = {**self._prepared[guided], "x": np.ascontiguousarray(x, np.float32), "timestep": features}
        return engine.run("step", inputs)["velocity"]

    def _prepare(self, *, guided: bool) -> Outputs:
        engine, prompts = self._pipeline.engine, self._prompts
        times = 2 if guided else 1
        context: Context = prompts.with_prompt.over(prompts.without) if guided else prompts.with_prompt
        inputs = graphs.prepare(
            engine.config,
            self._total,
            context.tokens,
            np.tile(prompts.global_cond, (times, 1)),
            None if self._local is None else np.tile(self._local, (times, 1, 1)),
        )
        inputs["context_bias"] = context.bias
        if self._valid is not None:
            valid = np.tile(self._valid, (times, 1))
            exclude = self._request.padding == "exclude"
            inputs |= graphs.padding_masks(engine.config, valid, exclude=exclude)
        return engine.run("prepare", inputs)


def _check_sound(audio: Array) -> None:
    for index, one in enumerate(audio):
        which = "the decoder" if len(audio) == 1 else f"the decoder, in item {index},"
        if not np.isfinite(one).all():
            raise BadOutput(which, "NaN or infinity")
        if np.ptp(one) == 0:
            raise BadOutput(which, "silence" if not one.any() else "a constant")
        if np.abs(one).max() < SILENT:
            raise BadOutput(which, "silence (nothing above -100 dBFS)")


def _warnings(reports: list[Report], request: Request) -> list[str]:
    warnings: list[str] = []
    for index, report in enumerate(reports):
        if report.changed and request.finish.limiter is None:
            which = f"item {index}: " if len(reports) > 1 else ""
            warnings.append(
                f"{which}{report.changed:.2%} of the samples exceeded full scale and were clipped "
                f"(true peak {report.true_peak_db:+.1f} dB); a limiter would turn them down"
            )
    return warnings
