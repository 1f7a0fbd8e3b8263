"""What is refused before any work is done, and in which words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sa3_engines import models
from sa3_engines.errors import InvalidRequest
from sa3_runtime.coding import Chunking
from sa3_runtime.finish import Finish
from sa3_runtime.request import AdapterUse, Request, plan

SMALL, MEDIUM = models.released_config("small-music"), models.released_config("medium")
SOUND = (44100, np.zeros((44100, 2), np.float32))


def refused(says: str, **request: Any) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        plan(Request(**{"prompt": "rain", **request}), SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0, "more than 0"),
        (-3.0, "more than 0"),
        (math.nan, "not a number"),
        (math.inf, "not a number"),
        ("5", "not a number"),
        (True, "not a number"),
        (1e-9, "less than one sample"),
        (121, "up to 120 s"),
        (1e308, "up to 120 s"),
        ([5, 500], "up to 120 s"),
        ([5, 6, 7], "3 values of seconds for 2 items"),
    ],
)
def test_durations(seconds: Any, says: str):
    refused(says, seconds=seconds, prompt=["rain", "wind"])


def test_what_is_left_to_the_model_is_as_the_command_has_it():
    assert [plan(Request(prompt="x"), SMALL).steps, plan(Request(prompt="x"), SMALL).cfg_scale] == [8, 1.0]
    base = plan(Request(prompt="x"), models.released_config("small-music-base"))
    assert (base.steps, base.cfg_scale, base.seconds) == (50, 7.0, [30])
    assert (base.request.steps, base.request.cfg_scale, base.request.seconds) == (50, 7.0, 30)  # and in its record
    assert plan(Request(prompt="x"), models.locate("nano").config).seconds == [9]
    assert plan(Request(prompt="x", sample_size=4096 * 20), SMALL).seconds == [4096 * 20 / 44100]
    assert plan(Request(prompt="x"), SMALL, (40.0, 60.0)).seconds == [40]


def test_a_clip_is_as_long_as_what_it_starts_from():
    assert plan(Request(prompt="x", init_audio=SOUND), SMALL).seconds == [1]
    assert plan(Request(prompt="x", init_audio=SOUND, seconds=2), SMALL).seconds == [2]
    assert plan(Request(prompt="x", inpaint_audio=SOUND, inpaint_regions=[(0, 0.5)]), SMALL).seconds == [1]
    assert plan(Request(prompt="x", inpaint_audio=SOUND, continue_audio=True), SMALL).seconds == [30]


def test_the_model_s_limit_is_its_own():
    assert plan(Request(prompt="x", seconds=380), MEDIUM).seconds == [380]
    assert plan(Request(prompt="x", seconds=120), SMALL).seconds == [120]
    with pytest.raises(InvalidRequest, match="up to 380 s"):
        plan(Request(prompt="x", seconds=385), MEDIUM)
    with pytest.raises(InvalidRequest, match="sample size of 442368 holds up to 10 s"):
        plan(Request(prompt="x", seconds=11, sample_size=442368), MEDIUM)


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ([(2.0, 1.0)], "reversed"),
        ([(1.0, 1.0)], "reversed or empty"),
        ([(0.0, 2.0), (1.0, 3.0)], "overlap"),
        ([(7.0, 8.0)], "outside"),
        ([(-1.0, 2.0)], "0 or more"),
        ([(0.0, math.nan)], "two numbers"),
        ([3.0], "two numbers"),
        (4.0, "a list of start and end"),
    ],
)
def test_inpaint_regions(regions: Any, says: str):
    refused(says, inpaint_audio=SOUND, inpaint_regions=regions, seconds=5.0)


def test_inpainting_needs_both():
    refused("inpainting needs", inpaint_audio=SOUND)
    refused("inpainting needs", inpaint_regions=[(0.0, 1.0)])
    refused("one of", inpaint_audio=SOUND, inpaint_regions=[(0.0, 1.0)], continue_audio=True)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": 10**6}, "steps"),
        ({"cfg_scale": math.nan}, "cfg_scale"),
        ({"apg_scale": 2}, "apg_scale"),
        ({"cfg_interval": (0.8, 0.2)}, "cfg_interval"),
        ({"init_audio": SOUND, "init_noise_level": 0.0}, "init_noise_level"),
        ({"init_noise_level": 1.5}, "init_noise_level"),
        ({"seed": -2}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": [1, 2, 3], "prompt": ["a", "b"]}, "3 seeds for 2 items"),
        ({"batch_size": 0}, "batch size"),
        ({"prompt": ["a", "b"], "batch_size": 3}, "2 values of prompt for 3 items"),
        ({"prompt": ["a", "b"], "negative_prompt": ["a", "b", "c"]}, "3 values of negative prompt for 2 items"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"sampler": "heun"}, "no sampler"),
        ({"dist_shift": "cubic"}, "no distribution shift"),
        ({"dist_shift": {"type": "full", "beta": 1}}, "distribution shift full"),
        ({"padding": "mirror"}, "padding"),
        ({"batch_size": "two"}, "batch size"),
        ({"cfg_interval": None}, "cfg_interval"),
        ({"dist_shift": ["full"]}, "distribution shift"),
        ({"dist_shift": {"type": []}}, "distribution shift"),
        ({"dist_shift": {}}, "a dict with a type"),
        ({"sampler": 3}, "no sampler"),
        ({"dist_shift": {"type": "flux", "alpha_min": 0}}, "not from 0 to 1"),
        ({"dist_shift": {"type": "full", "min_length": 9, "max_length": 9}}, "not from 0 to 1"),
        ({"dist_shift": {"type": "full", "base_shift": math.nan}}, "base_shift is nan"),
        ({"finish": None}, "a Finish"),
        ({"truncate": "yes"}, "true or false"),
        ({"seconds": []}, "empty list"),
        ({"sample_size": 1.5}, "sample size"),
        ({"prompt": "caf\udcff"}, "not valid text"),
    ],
)
def test_numbers_and_lists(request_: dict[str, Any], says: str):
    refused(says, **request_)


def test_one_for_all_or_one_each():
    planned = plan(Request(prompt=["a", "b"], seconds=[3, 5], negative_prompt="c", seed=9), SMALL)
    assert (planned.items, planned.seconds, planned.negatives, planned.seeds) == (2, [3, 5], ["c", "c"], None)
    assert plan(Request(prompt="a", batch_size=3), SMALL).prompts == ["a"] * 3
    assert plan(Request(prompt="a", seconds=[3, 5]), SMALL).prompts == ["a"] * 2
    assert plan(Request(prompt=["a", "b"], seed=[4, 5]), SMALL).seeds == [4, 5]


def test_a_chosen_seed_is_one_upstream_could_choose():
    seeds = {plan(Request(prompt="a"), SMALL).seed for _ in range(50)}
    assert len(seeds) > 40 and all(0 <= seed < 99_999 for seed in seeds)


def test_the_sampler_follows_the_objective():
    assert plan(Request(prompt="a"), SMALL).sampler == "pingpong"
    assert plan(Request(prompt="a"), models.released_config("small-music-base")).sampler == "euler"


def test_numpy_numbers_are_numbers():
    planned = plan(Request(prompt=["a", "b"], seconds=np.array([1.0, 2.0]), steps=np.int64(4)), SMALL)  # pyright: ignore
    assert planned.seconds == [1.0, 2.0] and planned.request.steps == 4


@pytest.mark.parametrize(
    ("adapters", "says"),
    [
        (AdapterUse(index=0), "a list of AdapterUse"),
        ([{"index": 0}], "a list of AdapterUse"),
        (0, "a list of AdapterUse"),
        ([AdapterUse(index=0, interval=(0.9, 0.1))], "0.9 to 0.1; the first must not exceed"),
        ([AdapterUse(index=0, interval=(0.1, 0.5, 0.9))], "two numbers"),  # pyright: ignore[reportArgumentType]
        ([AdapterUse(index=0, interval=None)], "two numbers"),  # pyright: ignore[reportArgumentType]
        ([AdapterUse(index=0, interval="01")], "two numbers"),  # pyright: ignore[reportArgumentType]
        ([AdapterUse(index=0, skip_layers=["to_q"])], "a text was expected"),  # pyright: ignore[reportArgumentType]
        ([AdapterUse(index=0), AdapterUse(index=0)], "adapter 0 has 2 entries"),
    ],
)
def test_uses_of_adapters(adapters: Any, says: str):
    refused(says, adapters=adapters)


def test_numpy_s_numbers_are_numbers_in_lists_too():
    planned = plan(Request(prompt=["a", "b"], seconds=[np.int64(2), np.float32(3)], seed=[np.int64(1), 2]), SMALL)
    assert planned.seconds == [2.0, 3.0]
    assert planned.seeds == [1, 2]
    assert all(type(value) in (int, float) for value in (*planned.seconds, *planned.seeds))


def test_what_is_wrong_with_a_given_sound_is_found_before_any_work():
    refused("init_audio must be a path or a", init_audio=5)
    refused("no audio file 'missing.wav'", init_audio="missing.wav")
    refused("ask for more than that", inpaint_audio=SOUND, continue_audio=True, seconds=1)


def test_a_small_sample_size_says_what_it_holds():
    refused("holds up to 0.092 s", seconds=1, sample_size=4096)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"seconds": 10**400}, "duration 1000.* is not a number of seconds"),
        ({"seconds": []}, "seconds is an empty list"),
        ({"seed": []}, "seed is an empty list"),
        ({"batch_size": "2"}, "batch size '2'; it must be a whole number"),
        ({"prompt": ["rain" * 5000, 5]}, "prompt is .{0,90}; a text"),
        ({"decode": None}, "decode None; it must be true or false"),
        ({"truncate": None}, "truncate None"),
        ({"padding": []}, r"padding \[\]; choose from exclude, zero"),
        ({"finish": None}, "finish is None; a Finish"),
        ({"chunking": 64}, "chunking is 64; a Chunking"),
        ({"adapters": [AdapterUse(index=[0])]}, r"index of an adapter is \[0\]"),  # pyright: ignore[reportArgumentType]
        ({"cfg_norm_threshold": -1}, "cfg_norm_threshold -1; it must be a number of 0 or more"),
        ({"dist_shift": {"type": "flux", "alpha_min": "a"}}, "flux: alpha_min is 'a'; expected a number"),
        ({"dist_shift": {"type": "logsnr", "rate": None}}, "logsnr: rate is None; expected a number"),
        ({"inpaint_audio": SOUND, "inpaint_regions": [("0", "1")]}, "an inpaint region is .*; two numbers"),
        ({"inpaint_audio": SOUND, "inpaint_mask": True}, r"inpaint_mask has shape \(\)"),
        ({"inpaint_audio": SOUND, "inpaint_mask": "a"}, "inpaint_mask is 'a'; one number per sample"),
        ({"inpaint_audio": SOUND, "inpaint_mask": np.full(44100, 2.0)}, "inpaint_mask must hold a number from 0"),
    ],
)
def test_what_is_no_value_of_a_field_is_told_by_the_field(request_: dict[str, Any], says: str):
    refused(says, **request_)


@pytest.mark.parametrize("given", ["rain", {"prompt": "rain"}, None])
def test_what_is_no_request(given: Any):
    with pytest.raises(InvalidRequest, match=r"a Request was expected: Request\(prompt"):
        plan(given, SMALL)


@pytest.mark.parametrize("given", [{"size": "a"}, {"size": 64.0}, {"overlap": None}, {"size": True}])
def test_windows_are_whole_numbers_of_latents(given: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="two whole numbers were expected"):
        Chunking(**given)


@pytest.mark.parametrize("given", [{"rate": math.nan}, {"rate": math.inf}, {"rate": 22050.0}, {"channels": 1.0}])
def test_rates_and_channels_are_whole_numbers(given: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="whole numbers were expected"):
        Finish(**given)


def test_a_sample_size_holds_whole_latents():
    assert plan(Request(prompt="x", seconds=0.9, sample_size=44100), SMALL).seconds == [0.9]
    refused("a sample size of 44100 holds up to 0.928 s", seconds=1, sample_size=44100)  # came out shorter, unsaid
    assert plan(Request(prompt="x", sample_size=44100), SMALL).seconds == [40960 / 44100]


def test_regions_and_masks_are_planned_as_numbers():
    regions = np.array([[0.5, 0.75], [0, 0.25]], np.float32)
    planned = plan(Request(prompt="x", inpaint_audio=SOUND, inpaint_regions=regions), SMALL)  # pyright: ignore[reportArgumentType]
    assert planned.request.inpaint_regions == [(0.5, 0.75), (0, 0.25)]
    mask = plan(Request(prompt="x", inpaint_audio=SOUND, inpaint_mask=[[1, 0, True]]), SMALL).request.inpaint_mask
    assert isinstance(mask, np.ndarray) and mask.tolist() == [1, 0, 1]
