"""The OpenVINO engine: runs a bundle's graphs in OpenVINO, on a CPU, or on Intel's GPUs and NPUs where they are.

A graph is compiled when it is first used. The exact tier's graphs are the ONNX ones, with weights mapped from the
checkpoint's own files; those of other tiers are OpenVINO's own format with smaller weights beside them. What OpenVINO
really runs in is checked: it takes another number type or device without an error.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sa3_engines import bundle, choosing, mapped, openvino_graph, openvino_weights, processor
from sa3_engines.adapters import LARGEST, ActiveAdapter
from sa3_engines.ahead import Ahead
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Inputs, Options, Outputs, Ran, Support
from sa3_engines.errors import BackendUnavailable, BundleError, Sa3Error
from sa3_engines.filling import Host
from sa3_engines.models import Source
from sa3_engines.tiers import EXACT

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, Model, ProfilingInfo

Array = np.ndarray
DEVICES = ("cpu", "gpu", "npu")
# What OpenVINO calls a type to compute in.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Columns of activations that share a scale where products are of bytes: made while running, and never for other types.
# Groups of weights must hold whole groups of activations: anything else is slow.
GROUPS: Mapping[str, int] = {"int8": 128, "int4": openvino_weights.GROUP4}
_NAMES = {hint: kind for kind, hint in HINTS.items()}
# Of every length, kernels that were made for it are kept: 2 MB for a step of `small`, for thousands of lengths unless
# told otherwise. So many operations of a graph are those of some three lengths.
KEPT = "64"
_OF_ONEDNN = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"  # which keeps them once more
SAYING_NOTHING = ("Exception from", "Check '", "FrontEnd API failed", "Loading input model")  # of an error's lines


@cache
def core() -> Core:
    """One per process, which stays: of two that lived side by side OpenVINO leaves a signal stack that is no longer
    there, and the next Ctrl-C ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


class _NothingKeptTwice:
    """oneDNN asks the environment once, when it makes its first kernel. Torch has a oneDNN of its own, which asks too
    and shall not be answered: it is said from the first of several graphs that are compiled together to the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._said = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._within and _OF_ONEDNN not in os.environ:
                os.environ[_OF_ONEDNN] = "0"
                self._said = True
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._said:
                os.environ.pop(_OF_ONEDNN, None)
                self._said = False


_nothing_kept_twice = _NothingKeptTwice()


class OpenVinoBackend:
    name = "openvino"

    def why_not(self, device: str = "auto") -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed; pip install 'sa3-runtime[openvino]'"
        if device.partition(":")[0] not in ("auto", *DEVICES):
            return f"no device {device!r}; choose from {', '.join(DEVICES)}"
        here = self.devices()
        if _full(device, here) in here:
            return None
        return f"device {device}: OpenVINO sees no such device here, only {', '.join(here)}; its driver may be missing"

    def why_not_open(self, source: Source, precision: str = "auto") -> str | None:
        return choosing.why_not(source, self.name, precision)

    def devices(self) -> list[str]:
        """As we write them: OpenVINO's GPU.1 is gpu:1."""
        return [name.lower().replace(".", ":") for name in core().available_devices]

    def versions(self) -> Mapping[str, str]:
        import openvino

        return {"openvino": openvino.get_version().partition("-")[0]}

    def open(self, source: Source, options: Options) -> OpenVinoEngine:
        for reason in (self.why_not(options.device), self.why_not_open(source, options.precision)):
            if reason:
                raise BackendUnavailable(reason)
        folder, found, tier, made = choosing.opened(source, self.name, options.precision, options.memory)
        return OpenVinoEngine(
            source.config,
            {name: folder / graph.file for name, graph in made.graphs.items()},
            device=options.device,
            threads=options.threads,
            versions=self.versions(),
            precision=made.type,
            tier=tier,
            seconds=(found.profile.min_seconds, found.profile.max_seconds),
            low_memory=options.memory == "low",
        )


class Ready(NamedTuple):
    """A graph that can be run."""

    model: CompiledModel
    request: InferRequest
    names: tuple[str, ...]  # of what it gives


class OpenVinoEngine:
    def __init__(
        self,
        config: ModelConfig,
        graphs: Mapping[str, Path],
        *,
        device: str = "cpu",
        threads: int | None = None,
        versions: Mapping[str, str] | None = None,
        precision: str = "fp32",
        tier: str = EXACT,
        seconds: tuple[float, float] | None = None,
        low_memory: bool = False,
    ) -> None:
        """graphs: the files by name, all in the folder that holds the weights; precision, tier and seconds are what
        they were exported in and for; low_memory keeps one network in memory at a time.
        """
        self.config = config
        self._graphs = graphs
        self._device = "cpu" if device == "auto" else device
        self._threads = threads or processor.cores()
        self._precision = precision
        folder = next(iter(graphs.values())).parent
        self._unchanged = bundle.Unchanged(folder)
        self._host = Host(config, folder)
        self._core = core()
        self._compiled: dict[str, Ready] = {}
        self._ahead = Ahead[Ready]()
        self._unpacked: dict[str, np.ndarray] = {}  # where the weights of a graph lie that has not run yet
        self._adapters: tuple[ActiveAdapter, ...] = ()
        self._low_memory = low_memory
        if self._device != "cpu":
            self._request("decode")  # find out now whether the device really runs it
        self.support = Support(
            backend="openvino",
            device=self._device,
            precision=precision,
            tier=tier,
            seconds=seconds,
            graphs=frozenset(graphs),
            adapters="step" in graphs,
            versions=versions or {},
        )

    def constants(self) -> Mapping[str, Array]:
        return self._host.constants()

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        if graph not in self._graphs:
            raise Sa3Error(f"this model has no graph {graph!r}")
        out = self._run(graph, self._host.inputs(graph, inputs))
        return self._host.beside(inputs) | out if graph == "prepare" else out

    def close(self) -> None:
        self._ahead.drop_all()
        self._compiled.clear()

    def open_ahead(self, graphs: Collection[str]) -> None:
        """Compiling keeps one core busy: 1.7 s instead of 2.8 for those of `small` on two. With one thread, or one
        network in memory at a time, and on other devices, each waits until it is run.
        """
        if self._device == "cpu" and self._threads > 1 and not self._low_memory:
            wanted = [graph for graph in graphs if graph in self._graphs and graph not in self._compiled]
            self._ahead.begin(wanted, self._opened)

    def release(self, graphs: Collection[str]) -> None:
        self._ahead.drop(graphs)
        for graph in graphs:
            self._compiled.pop(graph, None)
        mapped.trim()

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        return self._host.adaptable()

    def set_adapters(self, adapters: Sequence[ActiveAdapter]) -> None:
        """Nothing changes where making the weights fails."""
        changing = [graph for graph in ("prepare", "step") if graph in self._graphs and (adapters or self._adapters)]
        self._ahead.drop(changing)
        models = {graph: self._model(graph, adapters) for graph in changing}
        for graph in changing:  # before others are compiled: never two of a graph
            self._compiled.pop(graph, None)
        self._adapters = tuple(adapters)
        for graph in () if self._low_memory else tuple(models):
            self._compiled[graph] = self._compile(graph, models.pop(graph))

    def profile(self, graph: str, inputs: Inputs) -> Sequence[Ran]:
        self.release((graph,))  # never two of a graph
        feeds = self._host.inputs(graph, inputs)
        ready = self._compile(graph, self._model(graph, self._adapters), {"PERF_COUNT": "YES"})
        averages: list[list[ProfilingInfo]] = []
        for _ in range(2):  # the first is not warm
            ready.request.infer(feeds, share_inputs=True)
            averages.append(ready.request.get_profiling_info())
        return _second(*averages)

    def _run(self, graph: str, feeds: Outputs) -> Outputs:
        ready = self._request(graph)
        try:
            out = ready.request.infer(feeds, share_inputs=True)
        except (RuntimeError, TypeError, ValueError, KeyError) as e:
            raise Sa3Error(f"OpenVINO failed in {graph} on {self._device}: {_first(e)}") from e
        if graph in self._unpacked:
            # Weights are packed for the processor when first used, and not read again: what was mapped of them can go.
            mapped.release(self._graphs[graph].parent, self._unpacked.pop(graph))
        return {name: out[port] for name, port in zip(ready.names, ready.model.outputs, strict=True)}

    def _request(self, graph: str) -> Ready:
        if graph not in self._compiled:
            if self._low_memory:
                self._compiled.clear()
                mapped.trim()
            self._compiled[graph] = self._ahead.take(graph) or self._opened(graph)
        return self._compiled[graph]

    def _opened(self, graph: str) -> Ready:
        return self._compile(graph, self._model(graph, self._adapters))

    def _model(self, graph: str, adapters: Sequence[ActiveAdapter]) -> Model:
        """Adapted weights take the form the graph has for them: quantised ones are quantised again."""
        path = self._graphs[graph]
        self._unchanged.check()
        try:
            model = self._core.read_model(path)
            self._unchanged.check()  # as one may take its place within a moment
        except RuntimeError as e:
            raise BundleError(f"{path} cannot be read by OpenVINO: {_first(e)}") from e
        openvino_graph.keep_dimensions(model)
        openvino_graph.copy_sizes(model)
        if adapters:
            largest = openvino_weights.LARGEST.get(self._precision, LARGEST)
            openvino_weights.replace(model, self._host.merged(adapters, graph, largest=largest), self._precision)
        return model

    def _compile(self, graph: str, model: Model, more: Mapping[str, str] | None = None) -> Ready:
        path, device = self._graphs[graph], self._device.upper().replace(":", ".")
        exact = path.suffix == ".onnx"  # whatever the tier, a graph that was left exact is the ONNX one
        kind = "fp32" if exact else self._computes(model)
        # Before it is compiled: where a last operation turns out to do nothing, its result takes over others' names.
        names = tuple(port.any_name for port in model.outputs)
        settings = {"INFERENCE_PRECISION_HINT": HINTS[kind], **(more or {})}
        if device == "CPU":
            settings |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(self._threads)}
            settings["CPU_RUNTIME_CACHE_CAPACITY"] = KEPT
            group = 0 if exact else GROUPS.get(self._precision, 0)
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(group)
        addresses = np.array(openvino_weights.addresses(model), np.uint64)
        try:
            # Weights are copied out of their file, packed: they would be in memory twice.
            with mapped.returning(path.parent, addresses), _nothing_kept_twice:
                compiled = self._core.compile_model(model, device, settings)
            used = compiled.get_property("EXECUTION_DEVICES")
            precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except RuntimeError as e:
            raise BackendUnavailable(f"OpenVINO cannot run {graph} on device {self._device}: {_first(e)}") from e
        if not all(str(name).startswith(device) for name in used):
            raise BackendUnavailable(f"OpenVINO was asked to run {graph} on {device} and took {', '.join(used)}")
        if precision != settings["INFERENCE_PRECISION_HINT"]:
            raise BackendUnavailable(
                f"OpenVINO was asked to run {graph} in {kind} and takes {_NAMES.get(precision, precision)} on this "
                f"{self._device}; choose another precision"
            )
        self._unpacked[graph] = addresses
        mapped.trim()
        return Ready(compiled, compiled.create_infer_request(), names)

    def _computes(self, model: Model) -> str:
        """The number type of all that is not a product of bytes."""
        if self._precision not in GROUPS:
            return self._precision
        return openvino_graph.around(model) if self._device == "cpu" else "fp32"


def _second(first: Sequence[ProfilingInfo], both: Sequence[ProfilingInfo]) -> list[Ran]:
    """The second of two runs. OpenVINO tells the average of all since the graph was compiled, and in the first an
    operation may wait for memory ten times longer than it computes.
    """
    before = [one.real_time.total_seconds() for one in first]
    return [
        Ran(one.node_type, one.exec_type, max(0.0, 2 * one.real_time.total_seconds() - once))
        for one, once in zip(both, before, strict=True)
    ]


def _full(device: str, here: Sequence[str]) -> str:
    """A kind of device stands for the first of several."""
    if device == "auto":
        return "cpu"
    return f"{device}:0" if f"{device}:0" in here else device


def _first(error: Exception) -> str:
    """OpenVINO's messages begin with lines about where in its sources they come from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(SAYING_NOTHING)]
    return (telling or lines or [type(error).__name__])[0]


BACKEND = OpenVinoBackend()
