"""From a model to a bundle: weights placed, graphs converted for every tier, each compared with the torch engine, then
published. Where nothing that decides about a bundle has changed, what is there stays.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sa3_engines import bundle, config, console, graphs, likeness, models, processor, tables, tiers
from sa3_engines.bundle import Bundle, Graph, Origin, Profile
from sa3_engines.engine import CODEC, GRAPHS, Engine, Options
from sa3_engines.errors import BackendUnavailable, BundleError, CheckpointError, InvalidRequest, ParityError
from sa3_engines.models import CONFIG, Source
from sa3_exporters import asked, forms, islands, judging, parity, placing, provenance, publishing, targets, weights
from sa3_exporters.judging import Judge
from sa3_exporters.parity import Gate, Parity
from sa3_exporters.targets import Target, Tier, Work
from sa3_exporters.watch import Watch
from stable_audio_3 import checkpoint
from stable_audio_3.engine import BACKEND as TORCH

USUAL_SECONDS = 30.0
DEFAULT_TIERS = (tiers.EXACT, tiers.HIGH, tiers.FAST)
RUNS = 3  # of each graph when its speed is taken, after one to warm up
# Of the whole configuration, what a reader of the manifest wants to know about sampling.
SAMPLING = ("diffusion_objective", "distribution_shift_options", "mask_padding_attention")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is to be made of what, and where."""

    source: Source
    out: Path
    target: str = "onnx"
    precision: tuple[str, ...] = ("auto",)
    graphs: tuple[str, ...] = ()  # empty: all the model has
    profile: Profile | None = None
    islands: Path | None = None  # a table of layers that stay fp32, instead of the built-in one

    @property
    def in_place(self) -> bool:
        folder = self.source.folder
        return folder is not None and self.out.exists() and self.out.samefile(folder)

    def __post_init__(self) -> None:
        asked.check_words(self.precision, self.graphs)
        asked.check_model(self.source, self.graphs)
        has = GRAPHS if self.source.config.dit is not None else CODEC
        object.__setattr__(self, "graphs", tuple(graph for graph in has if graph in (self.graphs or has)))
        object.__setattr__(self, "profile", _profile(self.profile, self.source))


def _profile(wanted: Profile | None, source: Source) -> Profile:
    longest = source.config.longest_seconds
    if wanted is None:
        return Profile(min_seconds=0.0, opt_seconds=source.config.usual_seconds(USUAL_SECONDS), max_seconds=longest)
    asked.check_profile(wanted, source.name, source.config)
    return wanted


@dataclass(frozen=True)
class Built:
    bundle: Bundle
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])  # per tier and graph


def plan(recipe: Recipe, watch: Watch) -> tuple[Target, list[Tier]]:
    """The tiers that will be made. One that was named and cannot be is an error; `auto` goes on without it."""
    target = targets.load(recipe.target)
    if reason := target.why_not():
        raise BackendUnavailable(reason)
    offered = {
        name: tier if isinstance(tier, str) else _for_model(tier, recipe)
        for name, tier in target.tiers(recipe.islands).items()
    }
    found: list[Tier] = []
    for word in recipe.precision:
        wish = tiers.ask(word)
        for name, tier in offered.items():
            if isinstance(tier, str):
                if word == name:
                    raise BackendUnavailable(f"target {recipe.target} cannot make precision {name} here: {tier}")
                if word == "auto" and name in DEFAULT_TIERS:
                    watch.note(f"no tier {name}: {tier}")
            elif (name in DEFAULT_TIERS if word == "auto" else wish.meets(name, tier.type)) and tier not in found:
                found.append(tier)
        if word != "auto" and not any(wish.meets(tier.name, tier.type) for tier in found):
            has = ", ".join(f"{t.name} ({t.type})" for t in offered.values() if not isinstance(t, str))
            what = f"makes no precision {word!r} of {recipe.source.name} here"
            raise BackendUnavailable(f"target {recipe.target} {what}; it makes {has}")
    return target, sorted(found, key=lambda tier: tiers.TIERS.index(tier.name))


def _for_model(tier: Tier, recipe: Recipe) -> Tier:
    """With the number type that its weights really have in this model."""
    return replace(tier, type=forms.number_type(recipe.source.config, recipe.graphs, recipe.target, tier))


def check_target(recipe: Recipe) -> None:
    """Refuses, whatever is asked, to replace what is not a bundle."""
    if recipe.in_place:
        _check_in_place(recipe.source)
    asked.check_out(recipe.out, recipe.source)


def _check_in_place(source: Source) -> None:
    assert source.folder is not None
    folder = source.folder.resolve()
    if source.config.dit is None and config.is_full(models.read_json(source.folder / CONFIG)):
        raise InvalidRequest(f"{source.name} is a part of {folder}; choose another folder with --out")
    for name, path in models.files(source).items():
        # ONNX Runtime refuses weights that a link leads to outside of the graphs' folder.
        if path != source.folder / name or not path.resolve().is_relative_to(folder):
            raise InvalidRequest(
                f"{folder}: {name} lies elsewhere ({path.resolve()}); choose another folder with --out"
            )


def is_current(recipe: Recipe) -> bool:
    """By what went in and what judged it, never because a file exists."""
    try:
        found = bundle.read(recipe.out)
    except BundleError:
        return False
    made = (found.target, found.recipe, found.built_with)
    # What is cheap to compare comes first: weights are hashed whole.
    unchanged = made == (recipe.target, _digest(recipe), _tools(recipe))
    return unchanged and found.source.digest == placing.digest(recipe.source)


def _digest(recipe: Recipe) -> str:
    """Of the code that decides what is in a graph and whether it may be published, and of what was chosen."""
    target = targets.load(recipe.target)
    offered = [tier if isinstance(tier, str) else repr(tier) for tier in target.tiers(recipe.islands).values()]
    choices = json.dumps([recipe.precision, recipe.graphs, repr(recipe.profile), offered])
    judges = (Path(str(module.__file__)) for module in (forms, judging, parity, likeness, tiers, graphs, tables))
    return provenance.digest([*target.sources, Path(__file__), *judges], choices)


def _tools(recipe: Recipe) -> dict[str, str]:
    return provenance.versions((*provenance.TOOLS, *targets.load(recipe.target).tools))


def build(recipe: Recipe, watch: Watch | None = None, *, force: bool = False) -> Built | None:
    """None where what is there already is current. force: nothing that an earlier export made is used."""
    watch = watch or Watch()
    with publishing.only_one(recipe.out, watch):
        return None if not force and is_current(recipe) else _build(recipe, watch, force=force)


def check_kept(recipe: Recipe, wanted: Sequence[Tier]) -> None:
    """Refuses to drop what an earlier export made of the same weights."""
    try:
        found = bundle.load(recipe.out)
    except BundleError:
        return
    other = found.target != recipe.target
    names = [tier.name for tier in wanted]
    lost = [one for one in found.tiers if other or one not in names]
    lost += [graph for graph in found.graphs if graph not in recipe.graphs]
    if not lost or found.source.digest != placing.digest(recipe.source):
        return
    if other:
        raise InvalidRequest(
            f"{recipe.out} holds an export for {found.target}, which this one would drop; choose another --out, or "
            "--force"
        )
    whole = ",".join(sorted({*found.tiers, *names}, key=tiers.TIERS.index))
    graphs = ",".join(dict.fromkeys((*found.graphs, *recipe.graphs)))
    raise InvalidRequest(
        f"{recipe.out} holds {', '.join(lost)}, which this export would drop; ask for all that it is to hold "
        f"(--precision {whole} --graphs {graphs}), choose another --out, or --force"
    )


def _build(recipe: Recipe, watch: Watch, *, force: bool) -> Built:
    target, wanted = plan(recipe, watch)
    if not force:
        check_kept(recipe, wanted)
    if doubt := islands.doubt(recipe.islands, recipe.source, recipe.target):
        watch.note(doubt)
    weights.check_types(recipe.source)
    if doubt := weights.check_tokenizer(recipe.source):
        watch.note(doubt)
    weights.check_numbers(recipe.source)
    digest = placing.digest(recipe.source)
    with publishing.staging(recipe.out) as folder:
        steps = _Steps(watch, 3 + len(recipe.graphs) * len(wanted) * 2)
        steps.next(f"placing weights of {recipe.source.name}")
        placing.place(recipe.source, folder)
        staged = models.from_folder(folder, name=recipe.source.name)
        seconds: dict[tuple[str, str], float] = {}
        known = {} if force else provenance.known(recipe.source, recipe.out, watch)
        made = _make(recipe, target, wanted, staged, known, steps, seconds)
        steps.next("hashing")
        if placing.digest(recipe.source) != digest:  # it may be in training: the bundle would be said to be of both
            raise CheckpointError(
                f"{recipe.source.name} was changed while it was exported; nothing was published: export it again"
            )
        found = Bundle(
            model=recipe.source.name,
            target=recipe.target,
            backends=target.backends,
            profile=_profile(recipe.profile, recipe.source),
            sampling=_sampling(recipe.source),
            measured_on=processor.described(),
            source=Origin(
                model=recipe.source.name,
                repo=recipe.source.repo,
                revision=recipe.source.revision,
                digest=digest,
            ),
            built_with=_tools(recipe),
            tiers=made,
            files=bundle.describe(folder, _names(folder)),
            licence=placing.licence(recipe.source),
            recipe=_digest(recipe),
            traced=provenance.traced(),
        )
        bundle.write(folder, found)
        with console.uninterrupted():
            publishing.publish(folder, recipe.out, found, in_place=recipe.in_place)
            watch.published()
    return Built(bundle.read(recipe.out), seconds)


class _Steps:
    """Counts stages, so that a bar can be drawn."""

    def __init__(self, watch: Watch, total: int) -> None:
        self.watch, self._total, self._done = watch, total, 0

    def next(self, what: str) -> None:
        self.watch.stage(what, self._done / self._total)
        self._done += 1


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _sampling(source: Source) -> dict[str, Any]:
    diffusion = source.config.raw.get("model", {}).get("diffusion", {}) if source.config.dit is not None else {}
    return {name: diffusion[name] for name in SAMPLING if name in diffusion}


def _make(
    recipe: Recipe,
    target: Target,
    wanted: Sequence[Tier],
    staged: Source,
    known: Mapping[str, Path],
    steps: _Steps,
    seconds: dict[tuple[str, str], float],
) -> dict[str, bundle.Tier]:
    """Every tier, converted and compared. One that `auto` added and that misses its floor is left out, and said so."""
    assert staged.folder is not None and recipe.profile is not None
    with torch.device("meta"):
        networks = checkpoint.build(staged.config)
    work = Work(
        folder=staged.folder,
        config=staged.config,
        networks=networks,
        weights=placing.weights(staged.folder, staged.config.text.folder if staged.config.text else None),
        known=known,
    )
    if doubt := islands.idle(recipe.islands, wanted, work.weights):
        steps.watch.note(doubt)
    placed = set(_names(staged.folder))
    # The model's own files where it has any: what is wrong with them is told by their names.
    reference = TORCH.open(
        staged if recipe.source.folder is None else recipe.source, Options(device="cpu", precision="fp32")
    )
    gate = Gate(reference, recipe.profile)
    made: dict[str, bundle.Tier] = {}
    try:
        for tier in wanted:
            try:
                made[tier.name] = _tier(recipe, target, tier, work, gate, steps, seconds)
            except ParityError as e:
                if _is_named(recipe, tier) or tier.name == tiers.EXACT:
                    raise ParityError(f"precision {tier.name} ({tier.type}): {e}; nothing was published") from e
                steps.watch.note(f"no tier {tier.name} ({tier.type}): {e}")
    finally:
        reference.close()
    steps.next("timing")
    speeds = _speeds(recipe, target, [tier for tier in wanted if tier.name in made], work, made)
    made = {name: replace(tier, seconds=speeds[name]) for name, tier in made.items()}
    fast = next((tier for tier in wanted if tier.name == tiers.FAST and tier.name in made), None)
    if fast is not None and (slower := _why_no_faster(made)):
        named = _is_named(recipe, fast)
        steps.watch.note(slower if named else f"{slower}; it is left out")
        if not named:
            del made[tiers.FAST]
    kept = {file for tier in made.values() for graph in tier.graphs.values() for file in graph.files}
    for name in set(_names(staged.folder)) - placed - kept:  # of a tier that missed its floor
        (staged.folder / name).unlink()
    return made


def _is_named(recipe: Recipe, tier: Tier) -> bool:
    return any(word != "auto" and tiers.ask(word).meets(tier.name, tier.type) for word in recipe.precision)


def _why_no_faster(made: Mapping[str, bundle.Tier]) -> str | None:
    """`fast` promises less than `exact` and `high`: it is only worth having where it is faster than both."""
    fast = made[tiers.FAST]
    name = min(
        (one for one in (tiers.EXACT, tiers.HIGH) if one in made), key=lambda one: made[one].clip_seconds, default=""
    )
    if not name or fast.clip_seconds < made[name].clip_seconds:
        return None
    better = made[name]
    return (
        f"tier fast ({fast.type}) takes {fast.clip_seconds:.2f} s for a clip, and {name} ({better.type}) "
        f"{better.clip_seconds:.2f} s"
    )


def _tier(
    recipe: Recipe,
    target: Target,
    tier: Tier,
    work: Work,
    gate: Gate,
    steps: _Steps,
    seconds: dict[tuple[str, str], float],
) -> bundle.Tier:
    files: dict[str, Sequence[str]] = {}
    for graph in recipe.graphs:
        steps.next(f"{tier.name}: converting {graph}")
        started = time.perf_counter()
        files[graph] = target.convert(graph, tier, work)
        seconds[tier.name, graph] = time.perf_counter() - started
    judge, found = Judge(target, tier, work, gate, steps.watch, files), dict[str, Parity]()
    for graph in recipe.graphs:
        steps.next(f"{tier.name}: comparing {graph} with the torch engine")
        started = time.perf_counter()
        found[graph] = judge.judge(graph)
        if graph == CODEC[-1] and set(CODEC) <= set(files):
            both, mended = judge.judge_round_trip()
            found |= {one: judge.judge(one) for one in mended}
            more = {f"round_trip_{name}": value for name, value in {"snr_db": both.snr_db, **both.more}.items()}
            found[graph] = replace(found[graph], more={**found[graph].more, **more})
        seconds[tier.name, graph] += time.perf_counter() - started
    judge.check_any()
    made = {graph: _graph(judge.files[graph], result) for graph, result in found.items()}
    return bundle.Tier(type=tier.type, instructions=tier.instructions, exact=tier.exact, graphs=made, seconds={})


def _graph(files: Sequence[str], result: Parity) -> Graph:
    return Graph(
        file=files[0],
        files=tuple(dict.fromkeys(files)),
        cosine=round(result.cosine, 9),
        snr_db=round(result.snr_db, 2),
        relative_error=float(f"{result.relative_error:.3g}"),
        sizes=result.sizes,
        more={name: float(f"{value:.3g}") for name, value in result.more.items()},
    )


def _speeds(
    recipe: Recipe, target: Target, wanted: Sequence[Tier], work: Work, made: Mapping[str, bundle.Tier]
) -> dict[str, dict[str, float]]:
    """Seconds of one run of each graph at the profile's usual length. Tiers take turns, so that what else the machine
    does is not taken for a difference between them: `auto` chooses by these numbers.
    """
    assert recipe.profile is not None
    found: dict[str, dict[str, float]] = {tier.name: {} for tier in wanted}
    for graph in recipe.graphs:
        engines = {
            tier.name: target.open(work, tier, {g: m.file for g, m in made[tier.name].graphs.items()})
            for tier in wanted
        }
        try:
            inputs = {name: _usual(graph, engine, recipe.profile.opt_seconds) for name, engine in engines.items()}
            best = dict.fromkeys(engines, math.inf)
            for turn in range(RUNS + 1):
                for name, engine in engines.items():
                    started = time.perf_counter()
                    engine.run(graph, inputs[name])
                    if turn:  # the first warms up
                        best[name] = min(best[name], time.perf_counter() - started)
        finally:
            for engine in engines.values():
                engine.close()
        for name, seconds in best.items():
            found[name][graph] = float(f"{seconds:.3g}")
    return found


def _usual(graph: str, engine: Engine, seconds: float) -> Mapping[str, Any]:
    c = engine.config
    draw = np.random.Generator(np.random.SFC64(parity.SEED))
    if graph == "text":
        assert c.text is not None
        tokens = min(16, c.text.max_tokens)
        return graphs.text(c.text, np.zeros((1, tokens), np.int64), np.ones((1, tokens), np.int64))
    count = parity.frames(c, seconds)
    if graph in ("prepare", "step"):
        assert c.dit is not None
        context = draw.standard_normal((1, 16, c.dit.context_width), np.float32)
        given = graphs.prepare(c, count, context, np.zeros((1, c.dit.global_width), np.float32), None)
        if graph == "prepare":
            return given
        x = draw.standard_normal((1, c.dit.channels, count), np.float32)
        step = {"x": x, "timestep": tables.timestep_features(np.ones(1, np.float32), c.dit)}
        return {**engine.run("prepare", given), **step}
    half = c.autoencoder.encoder if graph == "encode" else c.autoencoder.decoder
    count = -(-min(count, parity.LONGEST_CODED) // half.latents_multiple) * half.latents_multiple
    if graph == "encode":
        audio = draw.standard_normal((1, c.autoencoder.channels, count * c.ratio), np.float32)
        return graphs.encode(c, 0.1 * audio)
    return graphs.decode(c, draw.standard_normal((1, c.autoencoder.latent_channels, count), np.float32))
