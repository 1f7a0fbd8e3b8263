"""What becomes of graphs that miss their tier's floor: nano's codec, of which a half is damaged on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from sa3_engines import bundle, models
from sa3_engines.bundle import Profile
from sa3_engines.engine import CODEC
from sa3_engines.errors import ParityError
from sa3_exporters import build, parity, targets
from sa3_exporters.build import Recipe
from sa3_exporters.onnx import TARGET
from sa3_exporters.targets import Tier, Work
from sa3_exporters.watch import Watch

Damage = Callable[[ir.Model], None]


class Damaged:
    """The target for ONNX, whose lower tiers are exact graphs to which something is done."""

    name, backends, tools, sources = TARGET.name, TARGET.backends, TARGET.tools, TARGET.sources
    why_not, tiers, open = TARGET.why_not, TARGET.tiers, TARGET.open

    def __init__(self, damage: Mapping[str, Damage]) -> None:
        self._damage = damage

    def convert(self, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        (exact,) = TARGET.convert(graph, targets.exact(TARGET), work)
        if tier.name == "exact":
            return (exact,)
        model = ir.load(work.folder / exact)
        self._damage.get(graph, _nothing)(model)
        ir.save(model, work.folder / f"{graph}.int8.onnx")
        return (f"{graph}.int8.onnx",)


class Noted(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def _nothing(model: ir.Model) -> None:
    pass


def _after(model: ir.Model, make: Callable[[ir.tape.Tape, ir.Value], ir.Value]) -> None:
    """Something is done to what the graph gives."""
    (out,) = model.graph.outputs
    tape = ir.tape.Tape()
    made = make(tape, out)
    for value in tape.initializers:
        model.graph.register_initializer(value)
    name = out.name
    out.name, made.name = f"{name}.before", name
    made.shape, made.type = out.shape, out.type
    model.graph.extend(tape.nodes)
    model.graph.outputs[0] = made


def _number(tape: ir.tape.Tape, value: Any, name: str) -> ir.Value:
    return tape.initializer(ir.tensor(np.array(value)), name)


def half_as_loud(model: ir.Model) -> None:
    """Of a cosine of 1 all the same."""
    _after(model, lambda tape, out: tape.op("Mul", [out, _number(tape, np.float32(0.5), "half")]))


def silent_at_one_length(model: ir.Model) -> None:
    """What neither half is asked alone."""
    (out,), (given, *_) = model.graph.outputs, model.graph.inputs
    latents = out if out.name == "latents" else given

    def make(tape: ir.tape.Tape, out: ir.Value) -> ir.Value:
        length = tape.op("Shape", [latents], {"start": 2, "end": 3})
        wrong = tape.op("Equal", [length, _number(tape, np.array([parity.PIECE]), "piece")])
        right = tape.op("Cast", [tape.op("Not", [wrong])], {"to": int(ir.DataType.FLOAT)})
        return tape.op("Mul", [out, right])

    _after(model, make)


def exported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Mapping[str, Damage],
    *precision: str,
    graphs: tuple[str, ...] = CODEC,
) -> tuple[bundle.Bundle, list[str]]:
    monkeypatch.setattr(targets, "load", lambda _: Damaged(damage))
    watch = Noted()
    recipe = Recipe(
        source=models.locate("nano"),
        out=tmp_path / "out",
        precision=precision or ("exact", "fast"),
        profile=Profile(min_seconds=0, opt_seconds=1, max_seconds=2),
        graphs=graphs,
    )
    built = build.build(recipe, watch)
    assert built is not None
    return built.bundle, [note for note in watch.notes if "stays exact" in note or "no tier" in note]


def files(found: bundle.Bundle) -> list[str]:
    return [found.tiers["fast"].graphs[graph].file for graph in CODEC]


def test_what_keeps_its_floor_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found, notes = exported(tmp_path, monkeypatch, {})
    assert files(found) == ["encode.int8.onnx", "decode.int8.onnx"] and not notes


def test_an_answer_of_another_size_is_not_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found, notes = exported(tmp_path, monkeypatch, {"encode": half_as_loud})
    assert files(found) == ["encode.onnx", "decode.int8.onnx"]
    assert len(notes) == 1 and "cosine 1.000000 at 0.5 times the size" in notes[0]


@pytest.mark.parametrize(
    ("damage", "exact"),
    [
        ({"encode": silent_at_one_length}, ["encode"]),
        ({"decode": silent_at_one_length}, ["decode"]),
    ],
)
def test_of_a_codec_that_misses_on_the_way_back_the_half_at_fault_stays_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Mapping[str, Damage], exact: list[str]
):
    found, notes = exported(tmp_path, monkeypatch, damage)
    assert files(found) == [f"{graph}.onnx" if graph in exact else f"{graph}.int8.onnx" for graph in CODEC]
    assert [note.partition(":")[0] for note in notes] == [f"{graph} stays exact in tier fast" for graph in exact]
    made = found.tiers["fast"].graphs
    assert made["decode"].more["round_trip_snr_db"] > 90
    for graph in exact:  # what is said is said about the file that stands
        assert made[graph].cosine == found.tiers["exact"].graphs[graph].cosine
    there = {path.name for path in (tmp_path / "out").glob("*.onnx")}
    assert there == {"encode.onnx", "decode.onnx", *files(found)}


def test_both_halves_stay_exact_where_both_err_and_the_rest_is_of_the_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    damage = {"encode": half_as_loud, "decode": silent_at_one_length}
    found, notes = exported(tmp_path, monkeypatch, damage, graphs=("text", *CODEC))
    assert files(found) == ["encode.onnx", "decode.onnx"] and len(notes) == 2
    assert found.tiers["fast"].graphs["text"].file == "text.int8.onnx"


def test_a_tier_of_which_nothing_is_left_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damage = {"encode": half_as_loud, "decode": silent_at_one_length}
    with pytest.raises(
        ParityError, match=r"precision fast \(int8\): encode and decode would stay exact.*; nothing was"
    ):
        exported(tmp_path, monkeypatch, damage)
    assert not (tmp_path / "out").exists()
    found, notes = exported(tmp_path, monkeypatch, damage, "auto")
    assert list(found.tiers) == ["exact"] and notes[-1].startswith("no tier fast (int8): encode and decode would stay")
