"""The pipeline on the miniature models: what must be equal, what must differ, and what must stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa3_engines.adapters import Merger
from sa3_engines.errors import BadOutput, Cancelled, InvalidRequest, ModelNotFound
from sa3_runtime.finish import Finish
from sa3_runtime.generation import Generation
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import AdapterUse, Request
from sa3_runtime.watching import Progress, Watch

Array = np.ndarray


def make(pipeline: Pipeline, **request: Any) -> Generation:
    return pipeline.generate(Request(**{"prompt": "slow rain", "seconds": 2.0, "steps": 3, "seed": 1, **request}))


def tone(seconds: float, rate: int = 1600) -> tuple[int, Array]:
    t = np.arange(int(seconds * rate)) / rate
    return rate, np.stack([np.sin(300 * t), np.cos(500 * t)], axis=1).astype(np.float32) * 0.5


def test_durations_are_honoured(tiny: Pipeline):
    for seconds in (0.013, 1.0, 2.345):
        made = make(tiny, seconds=seconds)
        assert made.audio.shape == (1, 2, int(seconds * 1600))
        assert np.abs(made.audio).max() <= 1


def test_seeds(tiny: Pipeline):
    first = make(tiny).audio
    np.testing.assert_array_equal(make(tiny).audio, first)
    assert np.abs(make(tiny, seed=2).audio - first).max() > 0.01
    chosen = make(tiny, seed=-1)
    np.testing.assert_array_equal(make(tiny, seed=chosen.plan.seed).audio, chosen.audio)


def test_prompts_and_durations_matter(tiny: Pipeline):
    first = make(tiny).latents
    assert np.abs(make(tiny, prompt="fast drums").latents - first).max() > 1e-3
    assert np.abs(make(tiny, prompt="").latents - first).max() > 1e-3


@pytest.mark.parametrize("sampler", ["pingpong", "euler", "rk4", "dpmpp"])
@pytest.mark.parametrize("guided", [False, True])
def test_an_item_of_a_batch_is_what_it_is_alone(tiny: Pipeline, sampler: str, guided: bool):
    """With a seed each, also when prompts, negative prompts and durations differ, and shorter items are masked."""
    extra = {"cfg_scale": 3.0, "negative_prompt": ["noise", "hum and hiss"]} if guided else {}
    prompts, seconds = ["slow rain", "one two three four"], [2.0, 1.0]
    shared = {"sampler": sampler, "padding_seconds": 0.0, "truncate": False}
    both = make(tiny, prompt=prompts, seconds=seconds, seed=[5, 6], **shared, **extra)
    negative = extra and {**extra, "negative_prompt": "noise"}
    alone = make(tiny, prompt=prompts[0], seconds=2.0, seed=[5], **shared, **negative)
    np.testing.assert_allclose(both.latents[:1], alone.latents, atol=2e-4 * np.abs(alone.latents).max())
    assert not both.audio[1, :, -(both.audio.shape[2] // 3) :].any(), "the shorter item is silent at its end"


def test_what_pads_an_item_does_not_reach_it(tiny: Pipeline):
    """Masked frames are excluded: an item's sound does not depend on how long the batch's longest is."""

    def second(longest: float) -> Array:
        shared = {"padding_seconds": 0.0, "truncate": False, "sampler": "euler", "chunked_decode": False}
        made = make(tiny, prompt=["a", "b"], seconds=[longest, 1.0], seed=[5, 6], **shared)
        return made.latents[1, :, : 1600 // 64]

    # The noise of an item depends on its shape, so only the statement about masks can be checked, through cfg-free
    # euler from the same start.
    noise = np.random.default_rng(0).standard_normal((2, 32, 400)).astype(np.float32)

    class Start:
        def draw(self, role: str, shape: tuple[int, ...]) -> Array:
            return np.ascontiguousarray(noise[: shape[0], :, : shape[2]])

    def latents(longest: float) -> Array:
        request = Request(
            prompt=["a", "b"], seconds=[longest, 1.0], steps=3, sampler="euler", padding_seconds=0.0, seed=1
        )
        return tiny.generate(request, noise=Start()).latents[1, :, :25]

    first = latents(2.0)
    np.testing.assert_allclose(latents(6.0), first, atol=1e-4 * np.abs(first).max())
    assert second(2.0).shape == second(3.0).shape


def test_guidance_scale_one_is_no_guidance(null: Pipeline):
    make(null, cfg_scale=1.0, negative_prompt="hum")
    steps = null.engine.calls.count("step")  # pyright: ignore
    assert steps == 3
    assert null.engine.calls.count("prepare") == 1  # pyright: ignore


def test_guidance_only_in_its_interval(null: Pipeline):
    make(null, cfg_scale=4.0, cfg_interval=(0.99, 1.0), steps=4)
    assert null.engine.calls.count("prepare") == 2, "with guidance for the first step, without for the rest"  # pyright: ignore


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.5, 1.0)])
def test_what_is_done_with_is_released_in_a_last_clip(
    null: Pipeline, monkeypatch: pytest.MonkeyPatch, interval: tuple[float, float]
):
    """Each network after its last run; what guidance may want again stays until sampling ends."""
    calls: list[str] = []
    monkeypatch.setattr(null.engine, "calls", calls)
    monkeypatch.setattr(null.engine, "release", lambda names: calls.append(f"-{' '.join(names)}"), raising=False)
    settings: dict[str, Any] = {"steps": 2, "cfg_scale": 2.0, "cfg_interval": interval}
    make(null, **settings)
    assert not any(call.startswith("-") for call in calls)
    calls.clear()
    null.generate(Request(prompt="slow rain", seconds=2.0, seed=1, **settings), last=True)
    sampling = ["prepare", "-prepare", "step", "step"] if interval == (0.0, 1.0) else ["prepare", "step"]
    assert calls[: 3 + len(sampling)] == ["text", "-text", "-encode", *sampling]
    assert calls[-2:] == ["-prepare step", "decode"]


def test_an_engine_is_told_ahead_what_will_be_run(null: Pipeline, monkeypatch: pytest.MonkeyPatch):
    """The largest first; of a last clip not what takes the place of networks that are given back."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(null.engine, "open_ahead", told.append, raising=False)
    make(null)
    make(null, decode=False)
    make(null, init_audio=tone(2.0), init_noise_level=0.9)
    null.generate(Request(prompt="slow rain", seconds=2.0, seed=1), last=True)
    null.generate(Request(prompt="slow rain", seconds=2.0, init_audio=tone(2.0), init_noise_level=0.9), last=True)
    assert told == [
        ("step", "prepare", "decode"),
        ("step", "prepare"),
        ("step", "prepare", "encode", "decode"),
        ("step", "prepare"),
        (),
    ]


def test_inpainting_keeps_to_its_mask(tiny: Pipeline):
    """What is kept reaches the model; with everything to be made anew the given sound does not matter."""
    everything = {"inpaint_regions": [(0.0, 2.0)]}
    first = make(tiny, inpaint_audio=tone(2.0), **everything).latents
    other = make(tiny, inpaint_audio=(1600, tone(2.0)[1] * -0.3), **everything).latents
    np.testing.assert_array_equal(first, other)
    some = make(tiny, inpaint_audio=tone(2.0), inpaint_regions=[(0.5, 1.0)]).latents
    assert np.abs(some - first).max() > 1e-3


def test_inpainting_a_batch(tiny: Pipeline):
    """The reference raises here."""
    shared = {"inpaint_audio": tone(2.0), "inpaint_regions": [(0.5, 1.0), (1.2, 1.4)]}
    both = make(tiny, prompt=["a", "b"], seed=[3, 4], **shared)
    alone = make(tiny, prompt="a", seed=[3], **shared)
    np.testing.assert_allclose(both.latents[:1], alone.latents, atol=1e-4 * np.abs(alone.latents).max())


def test_continuation_is_inpainting_after_the_end(tiny: Pipeline):
    made = make(tiny, inpaint_audio=tone(1.0), continue_audio=True).latents
    by_hand = make(tiny, inpaint_audio=tone(1.0), inpaint_regions=[(1.0, 2.0)]).latents
    np.testing.assert_array_equal(made, by_hand)
    with pytest.raises(InvalidRequest, match="ask for more"):
        make(tiny, inpaint_audio=tone(3.0), continue_audio=True)


def test_init_audio_moves_with_the_noise_level(tiny: Pipeline):
    given = tiny.encode(tone(2.0))

    def distance(level: float) -> float:
        latents = make(tiny, init_audio=tone(2.0), init_noise_level=level, sampler="euler").latents
        return float(np.abs(latents[:, :, : given.shape[2]] - given).mean())

    assert distance(0.02) < distance(0.3) < distance(1.0)


def test_adapters(small: Pipeline, golden: Any):
    plain = make(small).latents
    try:
        small.load_adapter(golden / "tiny-small/loras/lora.safetensors", 0.0)
        np.testing.assert_array_equal(make(small).latents, plain)
        small.adapters.set_strength(1.0)
        adapted = make(small).latents
        assert np.abs(adapted - plain).max() > 1e-3
        late = make(small, adapters=[AdapterUse(index=0, interval=(0.0, 0.9))]).latents
        assert np.abs(late - plain).max() > 1e-4 and np.abs(late - adapted).max() > 1e-4
        np.testing.assert_array_equal(make(small).latents, adapted)
        with pytest.raises(InvalidRequest, match="no adapter 3"):
            make(small, adapters=[AdapterUse(index=3)])
    finally:
        small.adapters.clear()
    np.testing.assert_array_equal(make(small).latents, plain)


def test_adapters_of_a_pipeline_take_paths_and_strengths_alone(small: Pipeline, golden: Path):
    path, adapters = golden / "tiny-small/loras/lora.safetensors", small.adapters
    try:
        assert [adapters.load(str(path)), small.load_adapter(path)] == [0, 1]
        for given in (None, [path]):
            with pytest.raises(InvalidRequest, match=r"an adapter is .*; the path of a"):
                small.load_adapter(given)  # pyright: ignore[reportArgumentType]
        adapters.loaded[0].strength = "half"  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(InvalidRequest, match="adapter strength 'half' is not a number"):
            make(small)
    finally:
        adapters.clear()


def test_adapters_stay_as_they_are_while_a_clip_is_made(small: Pipeline, golden: Path):
    """Reached half way, it would be neither of two clips, and its record untrue."""
    path, refused = golden / "tiny-small/loras/lora.safetensors", list[str]()
    changes: tuple[Callable[[], object], ...] = (
        lambda: small.load_adapter(path),
        lambda: small.adapters.load(path),
        small.adapters.clear,
        lambda: small.adapters.set_strength(0.5),
    )

    def change(_: Progress) -> None:
        for one in changes:
            with pytest.raises(InvalidRequest) as found:
                one()
            refused.append(str(found.value))
            with ThreadPoolExecutor() as pool, pytest.raises(InvalidRequest) as found:
                pool.submit(one).result()
            refused.append(str(found.value))

    request = Request(prompt="slow rain", seconds=2.0, steps=3, seed=1)
    made = small.generate(request, Watch(progress=change))
    assert np.array_equal(made.latents, small.generate(request).latents)
    assert len(refused) > 20 and not small.adapters.loaded
    assert {text.partition(";")[0] for text in refused} == {
        "adapters cannot be changed while a clip is made",
        "this pipeline is at work in another thread",
    }


def test_what_draws_no_noise_is_refused(null: Pipeline):
    with pytest.raises(InvalidRequest, match="noise is 'white'; what draws was expected"):
        null.generate(Request(prompt="slow rain", seconds=2.0), noise="white")  # pyright: ignore[reportArgumentType]


def test_adapters_that_fail_half_way_leave_nothing_behind(
    small: Pipeline, golden: Any, monkeypatch: pytest.MonkeyPatch
):
    plain = make(small).latents
    merge, left = Merger.weight, [10]

    def fails(self: Merger, *args: Any, **how: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return merge(self, *args, **how)

    try:
        small.load_adapter(golden / "tiny-small/loras/lora.safetensors")
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Merger, "weight", fails)
            make(small)
    finally:
        small.adapters.clear()
    np.testing.assert_array_equal(make(small).latents, plain)


def test_odd_lengths_with_given_sound(tiny: Pipeline):
    """The encoder fills up its last chunk; what is made stays as long as it was planned."""
    given = {"sample_size": 3 * 64, "seconds": 0.1, "padding_seconds": 0.0}
    assert make(tiny, init_audio=tone(0.1), init_noise_level=0.5, **given).latents.shape[2] == 3
    made = make(tiny, inpaint_audio=tone(0.1), inpaint_regions=[(0.0, 0.04)], **given)
    assert made.latents.shape[2] == 3


def test_a_region_within_one_latent_is_reported(small: Pipeline):
    made = make(small, inpaint_audio=tone(2.0), inpaint_regions=[(0.001, 0.002), (0.5, 1.0)])
    assert [w for w in made.warnings if "nothing is made anew from 0.001 to 0.002 s" in w]
    assert not [w for w in made.warnings if "0.5" in w]


@pytest.mark.parametrize("mask", [np.full(3200, np.nan), np.full(3200, 5.0), np.zeros(0), "keep"])
def test_masks_are_checked(null: Pipeline, mask: Any):
    with pytest.raises(InvalidRequest, match="inpaint_mask"):
        make(null, inpaint_audio=tone(2.0), inpaint_mask=mask)


def test_decoding_to_nothing_is_reported(null: Pipeline):
    with pytest.raises(BadOutput, match="silence"):
        null.decode(np.zeros((1, 32, 8), np.float32))


def test_progress_counts_every_step_and_window(small: Pipeline):
    seen: list[Progress] = []
    small.generate(Request(prompt="a", seconds=12.0, steps=4, seed=1), Watch(progress=seen.append))
    assert [p.done for p in seen if p.stage == "sample"] == [0, 1, 2, 3, 4]
    assert [(p.done, p.total) for p in seen if p.stage == "decode"][-1] == (3, 3)
    assert [p.stage for p in seen] == sorted([p.stage for p in seen], key=["text", "sample", "decode"].index)


@pytest.mark.parametrize("sampler", ["pingpong", "rk4"])
def test_cancelling_takes_effect_within_a_step(null: Pipeline, sampler: str):
    steps = 0

    def progress(p: Progress) -> None:
        nonlocal steps
        steps = p.done if p.stage == "sample" else steps

    watch = Watch(progress=progress, cancelled=lambda: steps >= 2)
    with pytest.raises(Cancelled):
        null.generate(Request(prompt="a", seconds=2.0, steps=8, sampler=sampler), watch)
    assert null.engine.calls.count("step") == 2 * (4 if sampler == "rk4" else 1)  # pyright: ignore
    assert "decode" not in null.engine.calls  # pyright: ignore


class Broken:
    """The null engine with one graph gone wrong."""

    def __init__(self, pipeline: Pipeline, graph: str, value: float, after: int = 0) -> None:
        self._run, self._graph, self._value, self._after = pipeline.engine.run, graph, value, after

    def __call__(self, graph: str, inputs: Any) -> Any:
        out = self._run(graph, inputs)
        if graph == self._graph:
            self._after -= 1
            if self._after < 0:
                return {name: np.full_like(value, self._value) for name, value in out.items()}
        return out


@pytest.mark.parametrize(
    ("graph", "value", "after", "says"),
    [
        ("text", np.nan, 0, "the text encoder produced NaN"),
        ("step", np.inf, 2, "sampling step 3 of 5 produced NaN or infinity"),
        ("encode", np.nan, 0, "encoding init_audio produced NaN"),
        ("decode", np.nan, 0, "the decoder produced NaN"),
        ("decode", 0.0, 0, "the decoder produced silence"),
        ("decode", 0.25, 0, "the decoder produced a constant"),
    ],
)
def test_a_broken_stage_is_named(
    null: Pipeline, monkeypatch: pytest.MonkeyPatch, graph: str, value: float, after: int, says: str
):
    monkeypatch.setattr(null.engine, "run", Broken(null, graph, value, after))
    init = {"init_audio": tone(2.0)} if graph == "encode" else {}
    with pytest.raises(BadOutput, match=says):
        make(null, steps=5, **init)


def test_clipping_is_reported_and_a_limiter_prevents_it(null: Pipeline, monkeypatch: pytest.MonkeyPatch):
    run = null.engine.run

    def loud(graph: str, inputs: Any) -> Any:
        return {n: v * 400 for n, v in run(graph, inputs).items()} if graph == "decode" else run(graph, inputs)

    monkeypatch.setattr(null.engine, "run", loud)
    clipped = make(null)
    assert "clipped" in clipped.warnings[0]
    limited = make(null, finish=Finish(limiter=-1.0))
    assert not limited.warnings and np.abs(limited.audio).max() < 0.9


def test_what_can_hardly_be_heard_is_reported(monkeypatch: pytest.MonkeyPatch):
    gain = 1.0
    with Pipeline.load("nano", threads=1) as nano:
        run = nano.engine.run

        def scaled(graph: str, inputs: Any) -> Any:
            return {n: v * gain for n, v in run(graph, inputs).items()} if graph == "decode" else run(graph, inputs)

        monkeypatch.setattr(nano.engine, "run", scaled)
        request = Request(prompt="C major chord on a pad", seconds=1, seed=1)
        peak = np.abs(nano.generate(request).audio).max()
        gain = 0.02 / peak
        assert "next to nothing is to be heard" in nano.generate(request).warnings[0]
        gain = 0.12 / peak
        assert not nano.generate(request).warnings


def test_a_mask_that_ends_before_the_clip_is_told_of(null: Pipeline):
    said = make(null, inpaint_audio=tone(2.0), inpaint_mask=np.zeros(1600)).warnings
    assert "inpaint_mask holds 1600 of the 3200 samples that are made; what follows it is kept" in said
    assert "inpaint_mask" not in str(make(null, inpaint_audio=tone(2.0), inpaint_mask=np.zeros(3200)).warnings)


@pytest.mark.parametrize("index", [1, -2, "0", None, 0.0])
def test_a_clip_that_was_not_made(null: Pipeline, index: Any):
    with pytest.raises(InvalidRequest, match=r"there is no clip .*; this request made 1, numbered from 0"):
        make(null).clip(index)
    with pytest.raises(InvalidRequest, match="decode=False"):
        make(null, decode=False).clip(0)


@pytest.mark.parametrize("given", [{"progress": 5}, {"cancelled": threading.Event()}, {"step": "x"}])
def test_a_watch_holds_functions(given: dict[str, Any]):
    with pytest.raises(InvalidRequest, match=f"{next(iter(given))} of a Watch is .*; a function was expected"):
        Watch(**given)


def test_what_is_no_watch_and_no_windows(null: Pipeline):
    anything: Any = print
    for work in (
        lambda: null.generate(Request(prompt="a", seconds=1.0), anything),
        lambda: null.encode(tone(1.0), watch=anything),
        lambda: null.decode(np.ones((1, 32, 8)), watch=anything),
    ):
        with pytest.raises(InvalidRequest, match="a Watch was expected"):
            work()
    anything = 64
    for work in (lambda: null.encode(tone(1.0), chunking=anything), lambda: null.decode(None, chunking=anything)):  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidRequest, match="chunking is 64; a Chunking was expected"):
            work()


def test_a_pipeline_closed_while_at_work_ends_that_work(tiny_model: Path):
    expected = make(Pipeline.load(tiny_model, backend="torch", threads=1)).audio
    for elsewhere in (False, True):
        pipeline = Pipeline.load(tiny_model, backend="torch", threads=1)

        def close(at: Progress, pipeline: Pipeline = pipeline, elsewhere: bool = elsewhere) -> None:
            if (at.stage, at.done) == ("sample", 1):
                closer = threading.Thread(target=pipeline.close)
                closer.start() if elsewhere else pipeline.close()
                closer.join(60) if elsewhere else None

        request = Request(prompt="slow rain", seconds=2.0, steps=3, seed=1)
        made = pipeline.generate(request, Watch(progress=close))
        assert pipeline.closed
        assert np.array_equal(made.audio, expected)
        assert not hasattr(pipeline.engine, "networks")  # and then its memory is free
        for work in (lambda p=pipeline: make(p), lambda p=pipeline: p.adapters.clear()):
            with pytest.raises(InvalidRequest, match="closed; load the model again"):
                work()


def test_models_are_loaded_by_paths_too(tmp_path: Path):
    with Pipeline.load(Path("nano"), backend="null") as pipeline:
        assert pipeline.source.name == "nano"
    with pytest.raises(ModelNotFound, match="holds no model_config"):
        Pipeline.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": None}, "the model is None; a name or a folder"),
        ({"model": b"nano"}, "the model is b'nano'"),
        ({"device": None}, "device None; a name was expected"),
        ({"needs": ("step", "dit")}, "needs names dit; the graphs are text"),
        ({"needs": None}, "needs is None; a collection of graphs was expected"),
        ({"needs": "text"}, "needs is 'text'; a collection of graphs was expected"),
        ({"needs": [5]}, "needs names 5; the graphs are text"),
    ],
)
def test_what_cannot_be_loaded(given: dict[str, Any], says: str):
    with pytest.raises(InvalidRequest, match=says):
        Pipeline.load(**given)
    with pytest.raises(InvalidRequest, match=r"Pipeline\.load takes it"):
        Pipeline.open("nano")  # pyright: ignore[reportArgumentType]


def test_encode_and_decode(tiny: Pipeline):
    z = tiny.encode(tone(1.01))
    assert z.shape[1] == 32 and z.shape[2] >= 26
    assert tiny.decode(z).shape == (
        1,
        2,
        -(-z.shape[2] // 2) * 2 * 64 if tiny.config.align_latents == 2 else z.shape[2] * 64,
    )
    for bad in (z[0], z[:, :5], z[:, :, :0], z * np.nan):
        with pytest.raises(InvalidRequest):
            tiny.decode(bad)


@pytest.fixture
def lengthy(null: Pipeline) -> Iterator[str]:
    yield "word " * 40


def test_a_prompt_too_long(null: Pipeline, lengthy: str):
    with pytest.raises(InvalidRequest, match="40 tokens long and the model reads 24"):
        make(null, prompt=lengthy)
    make(null, prompt=lengthy, truncate_prompt=True)


def test_upstream_s_cpu_masks_are_there_to_be_asked_for(tiny: Pipeline):
    two = {"prompt": ["a", "b"], "seconds": [2.0, 1.0], "seed": 1, "padding_seconds": 0.0}
    assert np.abs(make(tiny, **two).latents - make(tiny, **two, padding="zero").latents).max() > 1e-4


def test_another_thread_is_refused_and_not_served_wrongly(tiny: Pipeline):
    refused: list[str] = []

    def other() -> None:
        for work in (lambda: make(tiny), lambda: tiny.decode(np.zeros((1, 8, 4), np.float32))):
            try:
                work()
            except InvalidRequest as e:
                refused.append(str(e))

    def while_running(progress: Progress) -> None:
        if progress.stage == "sample" and progress.done == 1:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    expected = make(tiny).audio
    made = tiny.generate(Request(prompt="slow rain", seconds=2.0, steps=3, seed=1), Watch(progress=while_running))
    np.testing.assert_array_equal(made.audio, expected)
    assert len(refused) == 2 and all("at work in another thread" in text for text in refused)
    np.testing.assert_array_equal(make(tiny).audio, expected)  # and it serves again


def test_a_closed_pipeline_says_so():
    pipeline = Pipeline.load("random:small-music", backend="null")
    pipeline.close()
    pipeline.close()
    with pytest.raises(InvalidRequest, match="is closed"):
        make(pipeline)
    with pytest.raises(InvalidRequest, match="is closed"):
        pipeline.encode(tone(1.0))


def test_given_sound_that_changes_nothing_or_is_not_all_used_is_told_of(tiny: Pipeline):
    assert not any("init_audio" in text for text in make(tiny, init_audio=tone(2.0)).warnings)
    assert (
        "does nothing at an init_noise_level of 1" in make(tiny, init_audio=tone(2.0), init_noise_level=1).warnings[0]
    )
    assert "3.0 s long; the 2 s that are made leave out" in make(tiny, init_audio=tone(3.0)).warnings[0]
    rate, samples = tone(2.0)
    six = np.concatenate([samples, np.zeros((len(samples), 4), np.float32)], axis=1)
    made = make(tiny, init_audio=(rate, six))
    assert made.warnings[0] == "init_audio has 6 channels; the first 2 are used"
    np.testing.assert_array_equal(made.latents, make(tiny, init_audio=(rate, samples)).latents)


def test_init_audio_is_heard_unless_told_otherwise(tiny: Pipeline):
    assert np.abs(make(tiny, init_audio=tone(2.0)).latents - make(tiny).latents).max() > 1e-3


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_of_a_long_given_sound_only_what_is_used_is_resampled(tiny: Pipeline, method: str):
    rate, long = tone(60.0, rate=2000)
    given = {"init_noise_level": 0.5, "resampler": method}
    whole, cut = (make(tiny, init_audio=(rate, part), **given).latents for part in (long, long[: 20 * rate]))
    np.testing.assert_allclose(whole, cut, atol=1e-5)


def test_latents_alone_have_no_audio(tiny: Pipeline):
    with pytest.raises(InvalidRequest, match="stopped at its latents"):
        _ = make(tiny, decode=False).audio


def test_latents_may_be_plain_lists(tiny: Pipeline):
    channels = tiny.config.autoencoder.latent_channels
    with pytest.raises(InvalidRequest, match=r"latents of shape \(1, 1\)"):
        tiny.decode([[1.0]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="numbers were expected"):
        tiny.decode(np.full((1, channels, 2), "x"))
    with pytest.raises(InvalidRequest, match="resampler is 'exact' or 'fast'"):
        tiny.encode(tone(1.0), method="bogus")  # pyright: ignore[reportArgumentType]
