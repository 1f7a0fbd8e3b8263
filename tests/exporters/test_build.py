"""Recipes before anything is converted: what will be made, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import bundle, models
from sa3_engines.bundle import Profile
from sa3_engines.errors import BackendUnavailable, CheckpointError, InvalidRequest
from sa3_exporters import build, cli
from sa3_exporters.build import Recipe
from sa3_exporters.watch import Watch


class Noted(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def recipe(tmp_path: Path, **more: Any) -> Recipe:
    return Recipe(source=models.locate("nano"), out=tmp_path / "out", **more)


def test_auto_makes_what_can_be_made_and_says_what_cannot(tmp_path: Path):
    watch = Noted()
    _, made = build.plan(recipe(tmp_path), watch)
    assert [(tier.name, tier.type) for tier in made] == [("exact", "fp32"), ("fast", "int8")]
    assert watch.notes == ["no tier high: ONNX Runtime has no half precision on processors; the openvino target has"]


def test_tiers_and_types_by_name(tmp_path: Path):
    _, made = build.plan(recipe(tmp_path, precision=("compact", "int8", "exact")), Watch())
    assert [tier.name for tier in made] == ["exact", "fast", "compact"]


def test_a_tier_that_was_named_is_made_or_is_an_error(tmp_path: Path):
    with pytest.raises(BackendUnavailable, match="target onnx cannot make precision high here: ONNX Runtime has no"):
        build.plan(recipe(tmp_path, precision=("high",)), Watch())
    with pytest.raises(BackendUnavailable, match=r"makes no precision 'fp16' of nano here; it makes exact \(fp32\)"):
        build.plan(recipe(tmp_path, precision=("auto", "fp16")), Watch())
    with pytest.raises(InvalidRequest, match="no precision 'best'"):
        build.plan(recipe(tmp_path, precision=("best",)), Watch())


def test_a_tier_is_of_the_type_its_weights_have_in_this_model(tmp_path: Path):
    _, made = build.plan(recipe(tmp_path, precision=("fast", "compact")), Watch())
    assert [(tier.name, tier.type) for tier in made] == [("fast", "int8"), ("compact", "int8")]  # nothing is large
    _, made = build.plan(replace(recipe(tmp_path), source=models.locate("random:small"), precision=("int4",)), Watch())
    assert [(tier.name, tier.type) for tier in made] == [("compact", "int4")]
    with pytest.raises(BackendUnavailable, match=r"no precision 'int4' of nano here; it makes .*compact \(int8\)"):
        build.plan(recipe(tmp_path, precision=("int4",)), Watch())
    everything = tmp_path / "islands.json"
    everything.write_text('{"tiers": {"fast": {"exact": ["."]}}}')
    _, made = build.plan(recipe(tmp_path, precision=("fast",), islands=everything), Watch())
    assert [(tier.name, tier.type) for tier in made] == [("fast", "fp32")]


def test_fast_is_left_out_where_it_is_not_faster():
    def tier(kind: str, step: float, encode: float) -> bundle.Tier:
        seconds = {"text": 0.01, "step": step, "encode": encode, "decode": 0.3}
        return bundle.Tier(type=kind, instructions=(), exact=(), graphs={}, seconds=seconds)

    made = {"exact": tier("fp32", 0.6, 0.9), "high": tier("bf16", 0.238, 0.3), "fast": tier("int8", 0.26, 0.1)}
    said = build._why_no_faster(made)
    assert said == "tier fast (int8) takes 2.39 s for a clip, and high (bf16) 2.21 s"
    assert build._why_no_faster(made | {"fast": tier("int8", 0.2, 0.9)}) is None  # encoding is no part of it
    del made["high"]
    assert build._why_no_faster(made) is None
    slow = build._why_no_faster(made | {"fast": tier("int8", 0.7, 0.1)})  # as without products of bytes
    assert slow is not None and "and exact (fp32) 5.11 s" in slow
    assert build._why_no_faster({"fast": made["fast"]}) is None


def test_profiles_go_up_and_stay_within_the_model(tmp_path: Path):
    assert recipe(tmp_path).profile is not None
    for low, usual, high in ((5, 3, 10), (-1, 2, 3), (1, 5, 4), (0, 0, 0)):
        with pytest.raises(InvalidRequest, match=r"is longer than|is no duration|leaves no duration"):
            recipe(tmp_path, profile=Profile(min_seconds=low, opt_seconds=usual, max_seconds=high))
    with pytest.raises(InvalidRequest, match=r"nano was made for [\d.]+ s at most, and 99 were asked"):
        recipe(tmp_path, profile=Profile(min_seconds=1, opt_seconds=5, max_seconds=99))


def test_some_of_the_graphs(tmp_path: Path):
    assert recipe(tmp_path, graphs=("decode", "text")).graphs == ("text", "decode")
    with pytest.raises(InvalidRequest, match="no graph 'sing'; it has text, prepare, step, encode, decode"):
        recipe(tmp_path, graphs=("sing",))
    with pytest.raises(InvalidRequest, match="step needs what prepare gives"):
        recipe(tmp_path, graphs=("step",))


def test_the_command_refuses_before_it_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = ("--model", "nano", "--target", "onnx", "--out", str(tmp_path / "out"))
    assert cli.main([*out, "--private"]) == 2
    assert "name one with --push" in capsys.readouterr().err
    assert cli.main([*out, "--max-seconds", "500"]) == 2
    assert "was made for" in capsys.readouterr().err
    assert cli.main([*out, "--islands", str(tmp_path / "none.json")]) in (2, 3)
    assert "none.json" in capsys.readouterr().err
    for words in (("--precision", ""), ("--precision", ",", "--dry-run")):
        assert cli.main([*out, *words]) == 2
        assert "no precision is asked for; choose from auto, exact" in capsys.readouterr().err
    for words in (("--dry-run",), ()):
        assert cli.main([*out, "--push", "not a name", *words]) == 2
        assert "'not a name' is not a repository's name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_changes_while_it_is_exported(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tmp_path / "model"
    shutil.copytree(golden / "tiny-small", model, ignore=shutil.ignore_patterns("cases", "loras"))

    def trained(*_: object) -> dict[str, bundle.Tier]:
        with (model / "model.safetensors").open("ab") as file:
            file.write(b"more")
        return {}

    monkeypatch.setattr(build, "_make", trained)
    made = Recipe(source=models.from_folder(model), out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="model was changed while it was exported; nothing was published"):
        build.build(made)
    assert list(tmp_path.iterdir()) == [model]
