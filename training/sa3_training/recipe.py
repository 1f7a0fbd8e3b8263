"""All of the training, stage after stage, each continued where an earlier run of it ended."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from sa3_engines import models
from sa3_exporters import build
from sa3_training import (
    architecture,
    autoencoding,
    bundling,
    clips,
    corpus,
    distilling,
    flow,
    latents,
    numbers,
    running,
    tokens,
)
from sa3_training.denoising import Denoiser
from stable_audio_3.checkpoint import Networks
from stable_audio_3.networks.same import SAME

SEED = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is made, from how much, and where. The defaults are a few hours on two cores; the model card says what the
    shipped model was made with.
    """

    folder: Path
    clip_shards: int = 20
    latent_shards: int = 96
    workers: int = 2
    autoencoder: autoencoding.Options = field(default_factory=autoencoding.Options)
    base: flow.Options = field(default_factory=flow.Options)
    distil: distilling.Options = field(default_factory=distilling.Options)
    quiet: bool = False


def tokenizer(plan: Plan) -> Tokenizer:
    path = plan.folder / "tokenizer.json"
    if not path.is_file():
        plan.folder.mkdir(parents=True, exist_ok=True)
        learned = tokens.learn(corpus.captions(tokens.CAPTIONS))
        partial = path.with_suffix(".partial")
        partial.write_text(learned.to_str(pretty=False), "utf-8")
        partial.replace(path)
    return Tokenizer.from_file(str(path))


def autoencoder(plan: Plan) -> None:
    if running.finished(plan.folder, "autoencoder", plan.autoencoder.steps):
        return
    _shards(plan, "clips", plan.clip_shards, _clips)
    model = architecture.parsed()
    same = architecture.build(model, SEED).autoencoder
    crops = clips.Crops(plan.folder, plan.clip_shards)
    running.run(autoencoding.Autoencoding(same, model, crops, plan.autoencoder), plan.folder, quiet=plan.quiet)


def base(plan: Plan) -> None:
    if running.finished(plan.folder, flow.Flow.name, plan.base.steps):
        return
    autoencoder(plan)
    tokenizer(plan)  # once, before every worker wants it
    _shards(plan, "latents", plan.latent_shards, _latents)
    model = architecture.parsed()
    denoiser = Denoiser(architecture.build(model, SEED), model)
    numbers.begin(denoiser.text.embed_tokens.weight, tokenizer(plan))
    data = latents.read(plan.folder, plan.latent_shards)
    running.run(flow.Flow(denoiser, data, plan.base), plan.folder, quiet=plan.quiet)


def distil(plan: Plan) -> None:
    if running.finished(plan.folder, distilling.Distillation.name, plan.distil.steps):
        return
    base(plan)
    model = architecture.parsed()
    state = running.load(running.path_of(plan.folder, flow.Flow.name))["stage"]
    student, teacher = (Denoiser(architecture.build(model, SEED), model) for _ in range(2))
    for one in (student, teacher):
        _load_average(one, state, "denoiser")
    data = latents.read(plan.folder, plan.latent_shards)
    running.run(distilling.Distillation(student, teacher, data, plan.distil), plan.folder, quiet=plan.quiet)


def networks(plan: Plan, stage: str) -> tuple[Networks, dict[str, int]]:
    """The averaged weights after a stage, and how many steps each part was trained for."""
    model = architecture.parsed()
    made = architecture.build(model, SEED)
    steps: dict[str, int] = {}
    state = running.load(running.path_of(plan.folder, "autoencoder"))
    _load_average(made.autoencoder, state["stage"], "same")
    steps["autoencoder"] = int(state["step"])
    for name in (flow.Flow.name, distilling.Distillation.name):
        path = running.path_of(plan.folder, name)
        if name == stage or path.is_file():
            state = running.load(path)
            steps[name] = int(state["step"])
        if name == stage:
            break
    _load_average(Denoiser(made, model), state["stage"], "denoiser")
    return made, steps


def export(plan: Plan, out: Path, *, stage: str = distilling.Distillation.name, graphs: bool = True) -> None:
    """A stage's checkpoint, and beside it the graphs."""
    made, steps = networks(plan, stage)
    few = stage == distilling.Distillation.name
    bundling.write_checkpoint(out, made, tokenizer(plan), {"date": today(), "steps": steps}, base=not few)
    if graphs:
        source = models.from_folder(out, name="nano" if few else "nano-base")
        build.build(build.Recipe(source=source, out=out.absolute(), target="onnx", precision=("exact",)))


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def encoder(plan: Plan) -> SAME:
    same = architecture.build(architecture.parsed(), SEED).autoencoder
    _load_average(same, running.load(running.path_of(plan.folder, "autoencoder"))["stage"], "same")
    return same.eval().requires_grad_(False)


@torch.no_grad()
def _load_average(module: nn.Module, state: dict[str, Any], key: str) -> None:
    """The average where there is one; what was not trained has none."""
    module.load_state_dict(state[key])
    averaged: Mapping[str, Tensor] = state["optimiser"]["averaged"]
    parameters = dict(module.named_parameters())
    for name, mean in averaged.items():
        parameters[name].copy_(mean)


def _shards(plan: Plan, what: str, count: int, make: Callable[[Plan, int], None]) -> None:
    """Made by several processes; what is there already costs nothing."""
    if plan.workers <= 1:
        for index in tqdm(range(count), desc=what, disable=plan.quiet):
            make(plan, index)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.workers, mp_context=context, initializer=_one_thread) as pool:
        waiting = [pool.submit(make, plan, index) for index in range(count)]
        for done in tqdm(as_completed(waiting), total=count, desc=what, disable=plan.quiet):
            done.result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _clips(plan: Plan, index: int) -> None:
    clips.write(plan.folder, [index])


def _latents(plan: Plan, index: int) -> None:
    if not latents.shard_path(plan.folder, index).is_file():
        latents.write(plan.folder, [index], encoder(plan), architecture.parsed(), tokenizer(plan))
