"""Graphs for OpenVINO. The exact tier is the ONNX target's, as it is; other tiers are rewritten from it into OpenVINO's
own format, with weights in half precision or quantised, and the layers that need it marked to stay in fp32.
"""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa3_engines import openvino as engine
from sa3_engines import openvino_graph, openvino_weights, processor, quantise
from sa3_engines.advice import NO_BYTES, NO_HALF
from sa3_engines.tensors import TensorFile
from sa3_engines.tiers import COMPACT, EXACT, FAST, HIGH
from sa3_exporters import islands as table
from sa3_exporters.onnx import TARGET as ONNX
from sa3_exporters.targets import Form, Tier, Weight, Work

if TYPE_CHECKING:
    from openvino import Model, Node

# The input that what a graph works on comes from, and those that only steer it.
STREAM = {"text": "rows", "prepare": "context", "step": "x", "encode": "audio", "decode": "latents"}
STEERING = frozenset({"timestep", "global_embed", "global_cond"})
# Marks in OpenVINO's files. The first keeps a layer in fp32 whatever half precision is asked for, despite its value;
# the second keeps weights small until they are packed for the processor.
FP32 = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
SMALL = {"name": "decompression", "version": "0"}


class OpenVinoTarget:
    name = "openvino"
    backends = ("openvino",)
    tools = (*ONNX.tools, "openvino")
    engine_files = tuple(Path(str(module.__file__)) for module in (engine, openvino_graph, openvino_weights))
    sources = (*ONNX.sources, *engine_files, Path(__file__))

    def why_not(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "it needs openvino; pip install 'sa3-runtime[export,openvino]'"
        return ONNX.why_not()

    def tiers(self, islands: Path | None = None) -> Mapping[str, Tier | str]:
        def tier(name: str, kind: str, *instructions: str) -> Tier:
            exact = table.patterns(self.name, name, islands)
            return Tier(name=name, type=kind, instructions=instructions, exact=exact)

        flags = processor.flags()
        half, bytes_ = processor.half_precision(flags), processor.products_of_bytes(flags)
        small = (bytes_, *filter(None, [processor.bf16(flags)])) if bytes_ else ()
        return {
            EXACT: Tier(name=EXACT, type="fp32"),
            HIGH: tier(HIGH, *half) if half else NO_HALF,
            FAST: tier(FAST, "int8", *small) if small else NO_BYTES,
            COMPACT: tier(COMPACT, "int4", *small) if small else NO_BYTES,
        }

    def convert(self, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        (exact,) = ONNX.convert(graph, Tier(name=EXACT, type="fp32"), work)
        if tier.name == EXACT or _stays_exact(graph, tier):
            return (exact,)
        return _rewrite(graph, tier, work) or (exact,)

    def open(self, work: Work, tier: Tier, files: Mapping[str, str]) -> engine.OpenVinoEngine:
        paths = {graph: work.folder / file for graph, file in files.items()}
        versions = engine.BACKEND.versions()
        return engine.OpenVinoEngine(work.config, paths, versions=versions, precision=tier.type, tier=tier.name)


def form(graph: str, tier: Tier, key: str, shape: tuple[int, int]) -> Form | None:
    """What a tier makes of a graph's linear layer with this weight; None where it stays as it is."""
    kind = _kind(tier, key, shape)
    if kind == "fp32" or _stays_exact(graph, tier):
        return None
    return Form(
        type=kind,
        size=openvino_weights.size(shape, kind),
        rounded=lambda weight: openvino_weights.rounded(weight, kind),
        group=engine.GROUPS.get(tier.type),
        around=_around(graph, tier),
    )


def _stays_exact(graph: str, tier: Tier) -> bool:
    """The text encoder takes a hundredth of a clip's time, and is known to lose tokens in half precision."""
    return tier.type in openvino_weights.HALF and graph == "text"


def _around(graph: str, tier: Tier) -> str:
    """The number type of all that is not a product with a small weight: half precision where the processor has it, but
    for the text encoder.
    """
    if tier.type in openvino_weights.HALF:
        return tier.type
    return "bf16" if graph != "text" and processor.bf16(frozenset(tier.instructions)) else "fp32"


def _kind(tier: Tier, key: str, shape: tuple[int, ...]) -> str:
    """The number type of a weight. Four bits are stored in whole groups. Of an odd number of columns OpenVINO forgets
    the last, where weights are smaller than the half precision around them.
    """
    rows, columns = shape
    kind = table.number_type(tier, key, (rows, columns))
    if kind in engine.GROUPS and columns % 2 and processor.bf16(frozenset(tier.instructions)):
        return "fp32"
    return "int8" if kind == "int4" and columns % openvino_weights.GROUP4 else kind


def _rewrite(graph: str, tier: Tier, work: Work) -> tuple[str, ...]:
    """The files of the graph in a lower tier; none where the tier leaves all its layers in fp32. A graph that would
    come out as another tier's is not written again, and one that would not never takes the other's name.
    """
    import openvino

    model = engine.core().read_model(work.folder / f"{graph}.onnx")
    around = _around(graph, tier)
    products = list(linears(model, work.weights))
    keys = {_name(node): key for node, key in products}
    kept = islands(model, graph, tier, keys) if around in openvino_weights.HALF else frozenset[str]()
    kinds = {key: _kind(tier, key, work.weights[key].stored.shape) for key in keys.values()}
    if set(kinds.values()) <= {"fp32"}:
        return ()
    made: dict[Any, tuple[str, str]] = work.shared.setdefault("rewritten", {})
    outcome = graph, around, kept, tuple(kinds.items())
    if outcome in made:
        return made[outcome]
    name = f"{graph}.{tier.type}"
    if any(f"{name}.xml" in files for files in made.values()):
        name = f"{graph}.{tier.name}"
    apart = frozenset(_keep_biases_apart([node for node, _ in products if _name(node) in kept]))
    small = frozenset(_store(model, kinds, work.weights, work.folder))
    openvino_graph.set_around(model, around)
    openvino.serialize(model, work.folder / f"{name}.xml", work.folder / f"{name}.bin")
    if around in openvino_weights.HALF:
        marks = small if tier.type in openvino_weights.HALF else frozenset[str]()
        _mark(work.folder / f"{name}.xml", kept | apart, marks)
    made[outcome] = f"{name}.xml", f"{name}.bin"
    return made[outcome]


def linears(model: Model, weights: Mapping[str, Weight]) -> Iterator[tuple[Node, str]]:
    """Every product with a weight of the checkpoint's files that is stored rows before columns, and its name."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        held = _source(node, 1)
        if held.get_type_name() == "Convert":
            held = _source(held, 0)
        key = held.get_friendly_name()
        if held.get_type_name() == "Constant" and key in weights:
            yield node, key


def _store(model: Model, kinds: Mapping[str, str], weights: Mapping[str, Weight], folder: Path) -> Iterator[str]:
    """Makes the weights small, and gives the names of the nodes that make them fp32 again."""
    from openvino import opset13

    files = {location: TensorFile(folder / location) for location in {weight.location for weight in weights.values()}}
    for node, key in list(linears(model, weights)):
        if (kind := kinds[key]) == "fp32":
            continue
        weight = files[weights[key].location].array(key)
        held = {
            suffix: openvino_weights.constant(tensor, key + suffix)
            for suffix, tensor in openvino_weights.numbers(weight, kind).items()
        }
        value = opset13.convert(held[""], "f32")
        value.set_friendly_name(f"{key}.fp32")
        yield f"{key}.fp32"
        if quantise.SCALE in held:
            value = opset13.multiply(value, held[quantise.SCALE])
        if kind == "int4":
            value = opset13.reshape(value, opset13.constant(list(weight.shape)), special_zero=False)
        node.input(1).replace_source_output(value.output(0))


def islands(model: Model, graph: str, tier: Tier, keys: Mapping[str, str]) -> frozenset[str]:
    """The nodes that half precision leaves in fp32. keys: the weights' names, by those of their products.

    The stream that every block adds to, which loses digits with every sum: most of the error of half precision, and
    next to none of the time. What only steers the stream, and layers that the tier names. Marks on attention would
    not help: OpenVINO runs it as one piece in the precision of the whole.
    """
    found: set[str] = set()
    depends: dict[str, frozenset[str]] = {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = [_source(node, i) for i in range(len(node.inputs()))]
        if kind == "Parameter":
            depends[name] = frozenset({node.output(0).any_name})
            continue
        # A shape is made of whole numbers.
        on = frozenset[str]() if kind == "ShapeOf" else frozenset[str]().union(*(depends[_name(s)] for s in sources))
        depends[name] = on
        if not on or kind == "Result":
            continue
        steers = on <= STEERING or (name in keys and table.is_exact(tier, keys[name]))
        if steers or (STREAM[graph] in on and _on_stream(node, kind, [depends[_name(s)] for s in sources])):
            found.add(name)
    return frozenset(found)


def _keep_biases_apart(products: Sequence[Node]) -> Iterator[str]:
    """OpenVINO makes one operation of a product and its bias, and forgets the mark that keeps the product in fp32. It
    does not where it cannot tell that a bias is a constant: each is multiplied by a one that is made of a size. The
    names of the nodes that do.
    """
    from openvino import opset13

    for node in products:
        add = _after(node)
        if add is not None and add.get_type_name() == "Multiply" and openvino_graph.is_fixed(_source(add, 1)):
            add = _after(add)  # a Gemm's factor of one lies between
        if add is None or add.get_type_name() != "Add" or not openvino_graph.is_fixed(_source(add, 1)):
            continue
        zero, one = (opset13.constant(np.array(number, np.int64)) for number in (0, 1))
        size = opset13.gather(opset13.shape_of(node.input_value(0)), zero, zero)
        bias = opset13.multiply(add.input_value(1), opset13.convert(opset13.minimum(size, one), "f32"))
        bias.set_friendly_name(f"{_name(add)}.bias")
        add.input(1).replace_source_output(bias.output(0))
        yield f"{_name(add)}.bias"


def _on_stream(node: Node, kind: str, depends: Sequence[frozenset[str]]) -> bool:
    """Sums of two things that were computed, and what takes the stream apart and together again."""
    if node.get_output_partial_shape(0).rank.get_length() != 3:
        return False
    return kind in ("Slice", "Concat") or (kind == "Add" and all(depends))


def _after(node: Node) -> Node | None:
    """The one that takes what comes out; None where several do."""
    takers = node.output(0).get_target_inputs()
    return next(iter(takers)).get_node() if len(takers) == 1 else None


def _source(node: Node, index: int) -> Node:
    return node.input(index).get_source_output().get_node()


def _name(node: Node) -> str:
    return node.get_friendly_name()


def _mark(path: Path, fp32: frozenset[str], small: frozenset[str]) -> None:
    """OpenVINO reads these marks from its files, and has no call that sets them."""
    tree = ET.parse(path)
    for layer in tree.getroot().iter("layer"):
        name = layer.get("name")
        marks = [mark for mark, names in ((FP32, fp32), (SMALL, small)) if name in names]
        if marks:
            place = layer.find("rt_info")
            place = ET.SubElement(layer, "rt_info") if place is None else place
            for mark in marks:
                ET.SubElement(place, "attribute", mark)
    tree.write(path, "utf-8", xml_declaration=True)


TARGET = OpenVinoTarget()
