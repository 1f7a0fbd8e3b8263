"""Does a backend compute what the reference computes? Runs every case of a folder of golden numbers.

    python tests/conformance.py DIR [--backend NAME]

DIR is laid out like tests/golden (its README says how): one folder, or several below it. One row a case, with its
largest error relative to the output's own scale, then `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from sa3_engines import graphs, models, selection, tables
from sa3_engines.adapters import ActiveAdapter, Merger
from sa3_engines.engine import Options
from sa3_engines.errors import Sa3Error
from sa3_runtime import audio, coding, conditioning, noise, sampling, schedule
from sa3_runtime.guidance import Guidance
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import AdapterUse, Request, plan
from sa3_runtime.resample import resample
from sa3_runtime.watching import Watch

Array = np.ndarray
EXACT = 1e-6  # schedules, random numbers, constants
TOLERANCE = {"torch": 1e-4}  # the model itself in fp32, relative to the largest value
OTHERS = 1e-3


@dataclass
class Case:
    """One golden file: its tensors in fp32 (whole numbers as they are) and its parameters."""

    path: Path
    tensors: Mapping[str, Array]
    params: Mapping[str, Any]
    errors: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Case:
        tensors: dict[str, Array] = {}
        with safe_open(path, "np") as file:
            params = json.loads((file.metadata() or {}).get("params", "{}"))
            for key in file.keys():
                if file.get_slice(key).get_dtype() != "BF16":  # half-precision outputs belong to half-precision tiers
                    tensors[key] = file.get_tensor(key)
        return cls(path, tensors, params)

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def check(self, name: str, got: Array) -> None:
        """Compares with a golden tensor, where this file has it."""
        if name not in self.tensors:
            return
        expected = self.tensors[name]
        if got.shape != expected.shape:
            raise AssertionError(f"{name} has shape {got.shape}, expected {expected.shape}")
        scale = float(np.abs(expected).max(initial=0)) or 1.0
        error = float(np.abs(got.astype(np.float64) - expected).max(initial=0)) / scale
        self.errors[name] = error if np.isfinite(error) else float("inf")

    def names(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        for name in self.tensors:
            if match := re.fullmatch(pattern, name):
                yield name, match


class Recorded:
    """Random draws as the reference made them, in call order per role."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._next: dict[str, int] = {}

    def draw(self, role: str, shape: tuple[int, ...]) -> Array:
        index = self._next.get(role, 0)
        self._next[role] = index + 1
        name = f"noise.{role}.{index}"
        if name not in self._case:
            raise AssertionError(f"asks for the random draw {name}, which the reference did not make")
        return self._case[name].reshape(shape)


# The model's cases. Each takes the open pipeline and the case, and checks what the case holds.


def text(p: Pipeline, case: Case) -> None:
    assert p.config.text is not None
    ids, mask = case["in.input_ids"], case["in.attention_mask"]
    hidden = p.engine.run("text", graphs.text(p.config.text, ids, mask))["hidden"]
    case.check("out.last_hidden_state", hidden)
    padding = p.engine.constants()["padding_embedding"]
    case.check("out.prompt_embedding_padded", np.where(mask[:, :, None] > 0, hidden, padding))


def seconds(p: Pipeline, case: Case) -> None:
    conditioner = conditioning.Conditioner(p.engine)
    case.check("out.embedding", conditioner.seconds(case["in.seconds"])[:, None])
    share = np.clip(case["in.seconds"], p.config.seconds_min, p.config.seconds_max) / np.float32(p.config.seconds_max)
    case.check("mid.fourier_features", tables.fourier_features(share.astype(np.float32), 256))


def velocity(p: Pipeline, case: Case, x: Array, t: Array, context: Array, masks: Mapping[str, Array]) -> Array:
    assert p.config.dit is not None
    times = len(x) // len(case["in.global_cond"])
    global_cond = np.tile(case["in.global_cond"], (times, 1))
    local = np.tile(case["in.local_add_cond"], (times, 1, 1))
    prepared = p.engine.run("prepare", graphs.prepare(p.config, x.shape[2], context, global_cond, local) | dict(masks))
    features = tables.timestep_features(t, p.config.dit)
    return p.engine.run("step", {**prepared, "x": np.ascontiguousarray(x), "timestep": features})["velocity"]


def dit(p: Pipeline, case: Case) -> None:
    masks: Mapping[str, Array] = {}
    if "in.padding_mask" in case:
        masks = graphs.padding_masks(p.config, case["in.padding_mask"], exclude="varlen" in case.path.stem)
    if "in.inpaint_mask" in case:
        built = conditioning.local_conditioning(case["in.inpaint_mask"], case["in.inpaint_masked_input"])
        case.check("in.local_add_cond", built)
    case.check("out.v", velocity(p, case, case["in.x"], case["in.t"], case["in.cross_attn_cond"], masks))


def guided(p: Pipeline, case: Case, x: Array, t: Array, settings: Mapping[str, Any]) -> Array:
    """One guided velocity, with the names the golden parameters use for the settings."""
    rule = Guidance(
        scale=settings.get("cfg_scale", 1.0),
        apg_scale=settings.get("apg_scale", 1.0),
        interval=tuple(settings.get("cfg_interval", (0.0, 1.0))),
        rescale=settings.get("scale_phi", 0.0),
        norm_threshold=settings.get("cfg_norm_threshold", 0.0),
    )
    context = case["in.cross_attn_cond"]
    valid = case["in.padding_mask"].astype(bool) if settings.get("_pad") else None
    masks = {} if valid is None else graphs.padding_masks(p.config, valid, exclude=False)
    if not rule.active(t):
        return velocity(p, case, x, t, context, masks)
    other = np.zeros_like(context)
    if settings.get("_neg"):
        other = case["in.negative_cross_attn_cond"] * (case["in.negative_cross_attn_mask"] > 0)[:, :, None]
    masks = {name: np.concatenate((m, m)) for name, m in masks.items()}
    both = velocity(p, case, np.concatenate((x, x)), np.concatenate((t, t)), np.concatenate((context, other)), masks)
    return rule.combine(x, t, both[: len(x)], both[len(x) :], valid)


def dit_cfg(p: Pipeline, case: Case) -> None:
    for name, settings in case.params["variants"].items():
        case.check(f"out.{name}", guided(p, case, case["in.x"], case["in.t"], settings))


def sampler(p: Pipeline, case: Case) -> None:
    x, levels, drawn = case["in.x"], case["in.sigmas"], Recorded(case)
    levels = np.broadcast_to(levels, (len(x), levels.shape[-1]))
    settings = {**case.params, "_pad": "in.padding_mask" in case}
    seen: list[tuple[Array, Array, Array]] = []

    def model(state: Array, t: Array) -> Array:
        v = guided(p, case, state, t, settings)
        seen.append((state, t, v))
        return v

    states = [x, *sampling.sample(case.params["sampler"], model, x, levels, lambda: drawn.draw("step", x.shape))]
    per_step = len(seen) // (levels.shape[1] - 1)  # rk4 looks four times, first at the state itself
    for index, (state, t, v) in enumerate(seen[::per_step]):
        case.check(f"traj.{index}.x", state)
        case.check(f"traj.{index}.t", t)
        case.check(f"traj.{index}.denoised", state - t[:, None, None] * v)
    case.check("out.x", states[-1])


def chunking(case: Case) -> coding.Chunking | None:
    if not case.params.get("chunked"):
        return None
    return coding.Chunking(size=case.params.get("chunk_size", 128), overlap=case.params.get("overlap", 32))


def same_decode(p: Pipeline, case: Case) -> None:
    decode = partial(coding.decode, p.engine, case["in.latents"], chunking=chunking(case))
    case.check("out.audio_zero_noise", decode())
    if "out.audio" in case:
        case.check("out.audio", decode(noise=Recorded(case)))


def same_encode(p: Pipeline, case: Case) -> None:
    encode = partial(coding.encode, p.engine, case["in.audio"], chunking=chunking(case))
    case.check("out.latents_zero_noise", encode())
    if "out.latents" in case:
        case.check("out.latents", encode(noise=Recorded(case)))


def prepare_audio(p: Pipeline, case: Case) -> None:
    for index, one in enumerate(case.params["cases"]):
        samples = resample(case[f"in.{index}"], one["in_sr"], one["target_sr"], "exact")
        case.check(f"out.{index}", audio.fix_channels(audio.fit(samples, one["target_length"]))[None])


def lora(p: Pipeline, case: Case) -> None:
    root = case.path.parent.parent
    files = case.params.get("files") or [case.params["file"]]
    p.adapters.clear()
    try:
        for file in files:
            p.load_adapter(root / file)
        _lora(p, case, root)
    finally:
        p.adapters.clear()


def _lora(p: Pipeline, case: Case, root: Path) -> None:
    uses = [
        AdapterUse(index=c["lora_index"], interval=tuple(c["interval"]), skip_layers=c["layer_filter"])
        for c in case.params.get("lora_configs") or []
    ] or None

    def forward(t: Array) -> Array:
        p.adapters.use(p.adapters.active(uses, float(t[0])))
        return velocity(p, case, case["in.x"], t, case["in.cross_attn_cond"], {})

    for name, match in case.names(r"out\.v(\d+)"):
        case.check(name, forward(case[f"in.t{match[1]}"]))
    for name, match in case.names(r"out\.v_strength([\d.]+)"):
        p.adapters.set_strength(float(match[1]))
        case.check(name, forward(case["in.t"]))
    p.adapters.set_strength(1.0)
    if "in.seconds" in case:
        active = p.adapters.active(uses, 1.0)
        got = conditioning.Conditioner(p.engine).seconds(case["in.seconds"], active)
        case.check("out.seconds_embedding", got[:, None])
    # Weights are read after the last forward: adapters that its level or layer turns off are off.
    levels = sorted(name for name, _ in case.names(r"in\.t\d+"))
    last = float(case[levels[-1]][0]) if levels else 1.0
    for name, match in case.names(r"out\.weight(?:_strength([\d.]+))?\.((?:model|conditioners)\..+)"):
        p.adapters.set_strength(float(match[1] or 1.0))
        case.check(name, merged_weight(root, match[2], p.adapters.active(uses, last)))


def merged_weight(root: Path, module: str, active: list[ActiveAdapter]) -> Array:
    key = ("model." if module.startswith("model.") else "conditioner.") + module + ".weight"
    with safe_open(root / models.WEIGHTS, "np") as file:
        base = file.get_tensor(key).astype(np.float32)
    merged = Merger().weight(module, base, active)
    return base if merged is None else merged


def end_to_end(p: Pipeline, case: Case) -> None:
    options = case.params
    starts, ends = (_many(options.get(f"inpaint_mask_{side}_seconds")) for side in ("start", "end"))
    request = Request(
        prompt=[""] * len(case["in.seconds_total"]),
        negative_prompt="" if "in.negative_input_ids" in case else None,
        seconds=[float(s) for s in options["durations"]],
        steps=options["steps"],
        sampler=options.get("sampler_type"),
        cfg_scale=options.get("cfg_scale", 1.0),
        apg_scale=options.get("apg_scale", 1.0),
        cfg_rescale=options.get("scale_phi", 0.0),
        cfg_interval=tuple(options.get("cfg_interval", (0.0, 1.0))),
        cfg_norm_threshold=options.get("cfg_norm_threshold", 0.0),
        init_audio=(options["init_audio_sr"], _sound(case, "in.init_audio")) if "in.init_audio" in case else None,
        init_noise_level=options.get("init_noise_level", 1.0),
        inpaint_audio=(options["inpaint_audio_sr"], _sound(case, "in.inpaint_audio"))
        if "in.inpaint_audio" in case
        else None,
        # A last region may reach beyond the end, as the reference lets it.
        inpaint_regions=[(s, e) for s, e in zip(starts, ends, strict=True)],
        padding_seconds=options["duration_padding_sec"],
        sample_size=options.get("sample_size"),
        padding="zero" if options.get("padding_semantics", "vzero") == "vzero" else "exclude",
        chunked_decode=options.get("chunked_decode"),
        dist_shift=options.get("dist_shift"),
        autoencoder_noise=any(name.startswith(("noise.bottleneck", "noise.mask")) for name in case.tensors),
    )
    ids, mask = case["in.input_ids"], case["in.attention_mask"]
    negative = None
    if "in.negative_input_ids" in case:
        negative = (case["in.negative_input_ids"], case["in.negative_attention_mask"].astype(np.float32))

    def step(index: int, levels: Array, state: Array) -> None:
        case.check(f"traj.{index}.t", levels)
        case.check(f"traj.{index}.x", state)

    made = p.generate_from_tokens(
        plan(request, p.config), ids, mask.astype(np.float32), negative, watch=Watch(step=step), noise=Recorded(case)
    )
    case.check("out.latents", made.latents)
    case.check("out.audio", made.audio)


def _many(value: object) -> list[float]:
    return [] if value is None else [float(v) for v in (value if isinstance(value, Sequence) else [value])]  # type: ignore


def _sound(case: Case, name: str) -> Array:
    return case[name].T  # golden audio is channels first; numpy callers pass samples first


MODEL_CASES: Mapping[str, Callable[[Pipeline, Case], None]] = {
    "t5gemma": text,
    "number_conditioner": seconds,
    "dit_cfg": dit_cfg,
    "dit_": dit,
    "sampler_": sampler,
    "same_decode": same_decode,
    "same_encode": same_encode,
    "prepare_audio": prepare_audio,
    "lora_": lora,
    "e2e_": end_to_end,
}


# Cases without a model.


def schedules(case: Case) -> None:
    options = case.params["options"]
    for name, match in case.names(r"out\.steps(\d+)\.sigmamax([\d.]+)\.(?:len(\d+)|batched)"):
        steps, sigma_max = int(match[1]), float(match[2])
        lengths = np.array([int(match[3])] if match[3] else case.params["lens_for_batched"])
        got = schedule.build(steps, sigma_max, options, lengths)
        # Where all items' levels are alike, the reference may give one row for all.
        case.check(name, got[0] if case[name].ndim == 1 and case[name].shape == got[0].shape else got)


def random_numbers(case: Case) -> None:
    for seed in case.params["seeds"]:
        generator = noise.TorchGenerator(seed)
        for index, shape in enumerate(case.params["shapes"]):
            case.check(f"out.seed{seed}.draw{index}", generator.normal(tuple(shape)))


def constants(case: Case) -> None:
    case.check("expo_freqs_dim256", tables.expo_frequencies(256))
    case.check("rope_inv_freq_R32", tables.rope_frequencies(32))
    case.check("t5_inv_freq_dim64", tables.rope_frequencies(64))


PLAIN_CASES: Mapping[str, Callable[[Case], None]] = {
    "schedule_": schedules,
    "torch_randn": random_numbers,
    "constants": constants,
}


@dataclass(frozen=True)
class Row:
    name: str
    error: float | None
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.note and self.error is not None and self.error <= self.tolerance

    def __str__(self) -> str:
        mark = "ok  " if self.passed else "FAIL"
        shown = "-" if self.error is None else f"{self.error:.1e}"
        return f"{mark}  {self.name:<56} {shown:>8}  (<= {self.tolerance:.0e})  {self.note}".rstrip()


def run_case(path: Path, name: str, tolerance: float, rule: Callable[[Case], None]) -> Row:
    try:
        case = Case.read(path)
        rule(case)
    except (AssertionError, Sa3Error, KeyError, ValueError, OSError) as e:
        return Row(name, None, tolerance, f"{type(e).__name__}: {e}")
    if not case.errors:
        return Row(name, None, tolerance, "the file holds nothing this case compares")
    worst = max(case.errors, key=lambda k: case.errors[k])
    error = case.errors[worst]
    return Row(name, error, tolerance, f"worst: {worst}" if error > tolerance else "")


def rows(root: Path, backend: str, device: str, precision: str) -> Iterator[Row]:
    """Every case in and below a folder."""
    folders = sorted({root, *(p.parent for p in root.rglob("*.safetensors"))})
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            for prefix, rule in PLAIN_CASES.items():
                if path.stem.startswith(prefix):
                    yield run_case(path, str(path.relative_to(root).with_suffix("")), EXACT, rule)
    for config in sorted(root.rglob(models.CONFIG)):
        if (config.parent / "cases").is_dir():
            yield from model_rows(config.parent, root, backend, device, precision)


def model_rows(folder: Path, root: Path, backend: str, device: str, precision: str) -> Iterator[Row]:
    tolerance = TOLERANCE.get(backend, OTHERS)
    with tempfile.TemporaryDirectory() as scratch:
        source = bundled(folder, backend, precision, Path(scratch))
        engine, _ = selection.open_engine(source, backend, Options(device=device, precision=precision, threads=1))
        with Pipeline(engine, source) as pipeline:
            for path in sorted((folder / "cases").glob("*.safetensors")):
                name = str(path.relative_to(root).with_suffix(""))
                rule = next((r for prefix, r in MODEL_CASES.items() if path.stem.startswith(prefix)), None)
                if rule is None:
                    yield Row(name, None, tolerance, "this program has no rule for such a case")
                    continue
                yield run_case(path, name, tolerance, partial(rule, pipeline))


def bundled(folder: Path, backend: str, precision: str, scratch: Path) -> models.Source:
    """The checkpoint itself for torch; for an engine that runs graphs, a bundle exported from it first."""
    source = models.from_folder(folder)
    if backend in ("torch", "null") or source.has_graphs:
        return source
    from sa3_exporters.build import Recipe, build

    recipe = Recipe(source=source, target=backend, precision=(precision,), out=scratch / folder.name)
    build(recipe)
    return models.from_folder(recipe.out, name=folder.name)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="a folder of golden numbers")
    parser.add_argument("--backend", default="torch", help="which engine runs the graphs (default torch)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args(argv)
    if not args.dir.is_dir():
        parser.error(f"{args.dir} is not a folder")
    passed = failed = 0
    try:
        for row in rows(args.dir, args.backend, args.device, args.precision):
            print(row, flush=True)
            passed, failed = passed + row.passed, failed + (not row.passed)
    except Sa3Error as e:
        print(f"conformance: {e}", file=sys.stderr)
        return e.exit_code
    if passed + failed == 0:
        print(f"conformance: {args.dir} holds no cases", file=sys.stderr)
        return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
