"""What makes a bundle be made again, and what of it serves even then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sa3_engines import bundle, graphs, likeness, models, tables, tiers
from sa3_exporters import build, parity, provenance
from sa3_exporters.build import Recipe
from sa3_exporters.watch import Watch

KNOWN = {"text", "prepare", "step", "encode", "decode"}


@pytest.fixture
def recipe(golden: Path, bundles: Mapping[str, Path], tmp_path: Path) -> Recipe:
    """Of a bundle that is current."""
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-small"], out)
    return Recipe(source=models.from_folder(golden / "tiny-small"), out=out, precision=("exact", "fast"))


def edit(recipe: Recipe, change: Callable[[dict[str, Any]], object]) -> None:
    path = recipe.out / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def known(recipe: Recipe) -> set[str]:
    return set(provenance.known(recipe.source, recipe.out, Watch()))


def test_what_is_asked_for_again_is_current(recipe: Recipe):
    assert build.is_current(recipe)
    assert known(recipe) == KNOWN


def test_another_choice_makes_it_again(recipe: Recipe):
    assert recipe.profile is not None
    usual = replace(recipe.profile, opt_seconds=recipe.profile.opt_seconds / 2)
    for more in ({"precision": ("exact",)}, {"graphs": ("decode",)}, {"profile": usual}):
        assert not build.is_current(replace(recipe, **more)), more


@pytest.mark.parametrize("tool", ["sa3-runtime", "torch", "onnx", "onnxscript", "onnxruntime"])
def test_another_version_of_a_tool_makes_it_again(recipe: Recipe, tool: str):
    edit(recipe, lambda m: m["built_with"].update({tool: "0.0.1"}))
    assert not build.is_current(recipe)
    assert known(recipe) == (set() if tool in provenance.TRACERS else KNOWN)


def test_another_build_of_a_tool_traces_the_same_graphs(recipe: Recipe):
    release = provenance.versions(["torch"])["torch"].partition("+")[0]
    edit(recipe, lambda m: m["built_with"].update(torch=f"{release}+other"))
    assert not build.is_current(recipe)
    assert known(recipe) == KNOWN


@pytest.mark.parametrize("judge", [build, parity, likeness, tiers, graphs, tables], ids=lambda judge: judge.__name__)
def test_another_judge_judges_again(recipe: Recipe, judge: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was traced stays as it is."""
    changed = tmp_path / "changed.py"
    changed.write_text(Path(str(judge.__file__)).read_text() + "# stricter\n")
    monkeypatch.setattr(judge, "__file__", str(changed))
    assert not build.is_current(recipe)
    assert known(recipe) == KNOWN


def test_nanos_graphs_need_no_tracing(monkeypatch: pytest.MonkeyPatch):
    """Whoever exports it for another engine, with the tools that it was made with, waits for seconds."""
    made = bundle.load(models.HERE / "nano")
    monkeypatch.setattr(provenance, "versions", lambda names: {name: made.built_with[name] for name in names})
    assert set(provenance.known(models.locate("nano"), Path("nowhere"), Watch())) == set(made.graphs)
