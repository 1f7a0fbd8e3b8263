"""What `sa3 generate`, `encode` and `decode` do, from flags to files. Prints nothing."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sa3_engines import models
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Support
from sa3_engines.errors import InvalidRequest, ModelNotFound
from sa3_engines.models import Source
from sa3_runtime import audio, record, replay
from sa3_runtime.audio import Sound
from sa3_runtime.coding import Chunking
from sa3_runtime.command import drafts, outputs
from sa3_runtime.command.outputs import Output, Target
from sa3_runtime.files import check_writable
from sa3_runtime.finish import Finish, finish
from sa3_runtime.generation import Generation
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.recipe import Opening, Recipe
from sa3_runtime.request import Plan, plan
from sa3_runtime.watching import Progress, Watch


@dataclass(frozen=True, kw_only=True)
class Listener:
    progress: Callable[[Progress], None]
    warn: Callable[[str], None]


@dataclass(kw_only=True)
class Result:
    """What was written, and what it took."""

    model: str
    support: Support
    seconds: dict[str, float]  # spent in each stage
    files: list[Path] = field(default_factory=list[Path])
    durations: list[float] = field(default_factory=list[float])  # of the sound in or behind each file
    seeds: list[int] = field(default_factory=list[int])
    sidecars: list[Path] = field(default_factory=list[Path])
    latents: list[Path] = field(default_factory=list[Path])

    @property
    def working(self) -> float:
        return sum(spent for stage, spent in self.seconds.items() if stage != "load")

    @property
    def times_real_time(self) -> float:
        return sum(self.durations) / max(self.working, 1e-9)


@contextmanager
def opened(
    opening: Opening, spent: dict[str, float], listener: Listener, needs: Collection[str] = ()
) -> Generator[Pipeline]:
    listener.progress(Progress("load", 0, 1))
    start = time.perf_counter()
    with opening.explained(), opening.open(needs) as pipeline:
        spent["load"] = time.perf_counter() - start
        for reason in pipeline.choice.passed_over if pipeline.choice else ():
            listener.warn(f"a bundle is passed over: {reason}")
        if note := about_weights(pipeline.source):
            listener.warn(note)
        yield pipeline


def about_weights(source: Source) -> str | None:
    if source.random_weights:
        return "random weights: for measuring, not for listening"
    if not source.trained:
        return f"{source.name}'s weights are random until it is trained: expect noise, not music"
    return None


# generate


@dataclass(frozen=True, kw_only=True)
class Job:
    """A generation that has passed every check that needs no model."""

    recipe: Recipe
    wanted: Output
    base: Mapping[str, Any] | None  # the record it is made from

    def items(self, planned: Plan) -> list[int]:
        """Which of the batch are written. One of a batch is made with the rest: they share a stream of noise."""
        if self.recipe.item is None:
            return list(range(planned.items))
        if not 0 <= self.recipe.item < planned.items:
            raise InvalidRequest(f"the record is of item {self.recipe.item} in a batch of {planned.items}")
        return [self.recipe.item]

    def targets(self, planned: Plan) -> list[Target]:
        """Where each goes: never over what it is made from."""
        found = outputs.targets(self.wanted, len(self.items(planned)))
        for path in (path for target in found for path in target.paths if path.exists()):
            for name, given in self.recipe.inputs.items():
                if path.samefile(given.path):
                    raise InvalidRequest(f"{path} is both the output and {name}; write to another file")
        return found


def prepare(args: Namespace) -> Job:
    base = None if args.record is None else record.read(args.record)
    if args.prompt is None and base is None:
        raise InvalidRequest("there is nothing to make: give -p/--prompt, or a clip to make again with --from")
    draft = drafts.draft(args, base)
    wanted = outputs.output(
        args.output,
        args.format,
        args.bits,
        sidecar=bool(args.sidecar),
        latents=args.save_latents,
        rate=args.rate,
        base=base,
    )
    outputs.targets(wanted, 1)
    recipe = replay.from_record(draft, None if args.record is None else args.record.parent)
    job = Job(recipe=recipe, wanted=wanted, base=base)
    config = known_config(recipe.opening.model, recipe.opening.revision)
    if config is not None:
        outputs.keep_others(job.targets(plan(recipe.request, config)))
    return job


def known_config(model: str, revision: str | None = None) -> ModelConfig | None:
    """The model's configuration where that needs no download, so that what cannot be done is refused before one."""
    name = models.ALIASES.get(model, model)
    if name in models.RELEASED:
        return models.released_config(name)
    local = model.startswith("random:") or name == "nano" or is_folder(model)
    return models.locate(model, revision=revision).config if local else None


def is_folder(model: str) -> bool:
    try:
        return Path(model).expanduser().is_dir()
    except OSError:  # too long for a name
        return False
    except RuntimeError as e:
        raise ModelNotFound(f"no model {model!r}: {model.partition('/')[0]} is nobody's home here") from e


def generate(job: Job, listener: Listener) -> Result:
    spent: dict[str, float] = {}
    with opened(job.recipe.opening, spent, listener) as pipeline:
        request = job.recipe.request
        outputs.keep_others(job.targets(plan(request, pipeline.config, pipeline.limits)))
        generation = pipeline.generate(request, Watch(progress=listener.progress), last=True)
        result = Result(
            model=pipeline.source.name, support=pipeline.engine.support, seconds=spent | dict(generation.seconds_spent)
        )
        for warning in generation.warnings:
            listener.warn(warning)
        start = time.perf_counter()
        _write(job, generation, pipeline, result, listener)
        result.seconds["write"] = time.perf_counter() - start
    return result


def _write(job: Job, generation: Generation, pipeline: Pipeline, result: Result, listener: Listener) -> None:
    planned, created = generation.plan, datetime.now(UTC)
    items = job.items(planned)
    for index, target in zip(items, job.targets(planned), strict=True):
        made = record.make(job.recipe, generation, pipeline, index, created, target.folder)
        if index == items[0] and job.base is not None:
            for difference in record.differences(job.base, made):
                listener.warn(difference)
        made["output"] = {"file": target.sound.name, "format": job.wanted.format, "bits": job.wanted.bits}
        sound = generation.clip(index)
        for warning in outputs.write(job.wanted, target, sound, generation.latents[index], made):
            listener.warn(warning)
        result.files.append(target.sound)
        result.durations.append(sound.seconds)
        result.seeds.append(planned.seed if planned.seeds is None else planned.seeds[index])
        result.sidecars += [target.sidecar] if target.sidecar is not None else []
        result.latents += [target.latents] if target.latents is not None else []


# encode and decode


def _opening(args: Namespace) -> Opening:
    return replay.opening({name: getattr(args, name) for name in drafts.MODEL})


def _chunking(args: Namespace) -> Chunking | None:
    return Chunking() if args.chunked else None


def encode(args: Namespace, listener: Listener) -> Result:
    outputs.check_npy(args.output)
    check_writable(args.output)
    opening = _opening(args)
    sound = audio.read(args.audio)
    if sound.warning:
        listener.warn(sound.warning)
    spent: dict[str, float] = {}
    with opened(opening, spent, listener, ("encode",)) as pipeline:
        start = time.perf_counter()
        latents = pipeline.encode(
            sound,
            chunking=_chunking(args),
            method=args.resampler or "exact",
            watch=Watch(progress=listener.progress),
        )
        spent["encode"] = time.perf_counter() - start
        outputs.write_npy(args.output, latents[0])
        return Result(
            model=pipeline.source.name,
            support=pipeline.engine.support,
            seconds=spent,
            files=[args.output],
            durations=[sound.seconds],
        )


def decode(args: Namespace, listener: Listener) -> Result:
    wanted = outputs.output(args.output, args.format, args.bits, rate=args.rate)
    (target,) = outputs.targets(wanted, 1)
    how, spent = Finish(**drafts.finish(args, {}, None)), dict[str, float]()
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise InvalidRequest(f"duration {args.seconds:g} s; it must be more than 0, and end")
    opening = _opening(args)
    config = known_config("nano" if args.model is None else args.model, args.revision)
    latents = None if config is None else outputs.read_npy(args.latents, config.autoencoder.latent_channels)
    with opened(opening, spent, listener, ("decode",)) as pipeline:
        if latents is None:
            latents = outputs.read_npy(args.latents, pipeline.config.autoencoder.latent_channels)
        start = time.perf_counter()
        samples = pipeline.decode(latents, chunking=_chunking(args), watch=Watch(progress=listener.progress))[0]
        spent["decode"] = time.perf_counter() - start
        rate = pipeline.config.sample_rate
        if args.seconds is not None:
            if args.seconds * rate > samples.shape[1]:
                listener.warn(f"{args.seconds:g} s were asked, and the latents hold {samples.shape[1] / rate:.2f} s")
            samples = samples[:, : max(1, int(min(args.seconds * rate, samples.shape[1])))]
        start = time.perf_counter()
        listener.progress(Progress("finish", 0, 1))
        sound, report = finish(Sound(samples, rate), how)
        spent["finish"] = time.perf_counter() - start
        if report.changed and how.limiter is None:
            listener.warn(f"{report.changed:.2%} of the samples exceeded full scale and were clipped; see --limiter")
        start = time.perf_counter()
        listener.progress(Progress("write", 0, 1))
        outputs.write_sound(wanted, target.sound, sound, {"software": record.SOFTWARE})
        spent["write"] = time.perf_counter() - start
        return Result(
            model=pipeline.source.name,
            support=pipeline.engine.support,
            seconds=spent,
            files=[target.sound],
            durations=[sound.seconds],
        )
