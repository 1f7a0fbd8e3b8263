"""The torch networks as ONNX graphs whose weights stay where they are: in the checkpoint's safetensors files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from sa3_engines import onnx as engine
from sa3_engines import quantise
from sa3_engines.config import ModelConfig
from sa3_engines.tiers import COMPACT, EXACT, FAST, HIGH
from sa3_exporters import islands as table
from sa3_exporters import onnx_graph, onnx_tiers, tracing
from sa3_exporters.targets import Tier, Weight, Work
from stable_audio_3.checkpoint import Networks

# The code that decides what an exact graph is.
TRACES = tuple(Path(str(module.__file__)) for module in (tracing, onnx_graph))


class OnnxTarget:
    name = "onnx"
    backends = ("onnx",)
    tools = ("onnx", "onnxscript", "onnxruntime")
    sources = (
        Path(__file__),
        *TRACES,
        *(Path(str(module.__file__)) for module in (onnx_tiers, quantise, table)),
    )

    def why_not(self) -> str | None:
        missing = [tool for tool in self.tools if importlib.util.find_spec(tool) is None]
        return f"it needs {', '.join(missing)}; pip install 'sa3-runtime[export]'" if missing else None

    def tiers(self, islands: Path | None = None) -> Mapping[str, Tier | str]:
        def small(name: str, kind: str) -> Tier:
            return Tier(name=name, type=kind, exact=table.patterns(self.name, name, islands))

        return {
            EXACT: Tier(name=EXACT, type="fp32"),
            HIGH: "ONNX Runtime has no half precision on processors; the openvino target has",
            # Every processor can: where it has no instructions for products of bytes, ONNX Runtime does without.
            FAST: small(FAST, "int8"),
            COMPACT: small(COMPACT, "int4"),
        }

    def convert(self, graph: str, tier: Tier, work: Work) -> Sequence[str]:
        made: dict[str, ir.Model] = work.shared.setdefault("graphs", {})
        if graph not in made:
            known = work.known.get(graph)
            made[graph] = ir.load(known) if known else model(graph, work.networks, work.config, work.weights)
        if tier.name == EXACT:
            ir.save(made[graph], work.folder / f"{graph}.onnx")
            return (f"{graph}.onnx",)
        written = work.shared.setdefault("written", {})
        name = f"{graph}.{tier.type}"
        return onnx_tiers.rewrite(made[graph].clone(), tier, work.weights, work.folder, name, written)

    def open(self, work: Work, tier: Tier, files: Mapping[str, str]) -> engine.OnnxEngine:
        paths = {graph: work.folder / file for graph, file in files.items()}
        versions = engine.BACKEND.versions()
        return engine.OnnxEngine(work.config, paths, versions=versions, precision=tier.type, tier=tier.name)


def model(graph: str, networks: Networks, config: ModelConfig, weights: Mapping[str, Weight]) -> ir.Model:
    """A graph in fp32, to be saved in the folder where the weights' files lie; networks are on the meta device."""
    wanted = tracing.plan(graph, networks, config)
    made = tracing.trace(wanted).model
    made.graph.name = graph
    onnx_graph.finish(made, wanted, weights)
    return made


TARGET = OnnxTarget()
