"""The ONNX engine: runs a bundle's graphs in ONNX Runtime, on a CPU or through another execution provider.

A graph's session is made when it is first used, and its weights are mapped from the checkpoint's own files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sa3_engines import bundle, choosing, mapped, onnx_types, processor
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Inputs, Options, Outputs, Ran, Support
from sa3_engines.errors import BackendUnavailable, BundleError, Sa3Error
from sa3_engines.filling import Host, graph_of
from sa3_engines.graphs import decode
from sa3_engines.models import Source
from sa3_engines.quantise import SCALE, Blocks
from sa3_engines.tensors import TensorFile
from sa3_engines.tiers import EXACT

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
NUMBERED = ("cuda", "directml")
_FIXES = {
    "cpu": "pip install --force-reinstall onnxruntime",
    # The two packages share one folder and cannot stand together.
    "cuda": "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "directml": "on Windows, pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "coreml": "on a Mac, pip install onnxruntime",
}
HEAVY = re.compile("MatMul|Gemm|Conv|Attention|Softmax")  # operations that take time, by themselves or fused


def runtime() -> Any:
    """ONNX Runtime, told before it starts not to report to its makers what it runs, which it does unless told."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxBackend:
    name = "onnx"

    def why_not(self, device: str = "auto") -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed; pip install onnxruntime"
        kind = _kind(device)
        if kind not in PROVIDERS:
            return f"no device {device!r}; choose from {', '.join(PROVIDERS)}"
        if ":" in device and kind not in NUMBERED:
            return f"no device {device!r}; {kind} has no numbers"
        if ":" in device and not re.fullmatch("[0-9]+", device.partition(":")[2]):
            return f"no device {device!r}; a GPU is {kind}, or one of several by its number: {kind}:0, {kind}:1"
        available = _available()
        if PROVIDERS[kind] in available:
            return None
        return (
            f"device {device}: ONNX Runtime has no {PROVIDERS[kind]} here, only {', '.join(available)}; {_FIXES[kind]}"
        )

    def why_not_open(self, source: Source, precision: str = "auto") -> str | None:
        return choosing.why_not(source, self.name, precision)

    def devices(self) -> list[str]:
        available = _available()
        return [device for device, provider in PROVIDERS.items() if provider in available]

    def versions(self) -> Mapping[str, str]:
        return {"onnxruntime": runtime().__version__}

    def open(self, source: Source, options: Options) -> OnnxEngine:
        for reason in (self.why_not(options.device), self.why_not_open(source, options.precision)):
            if reason:
                raise BackendUnavailable(reason)
        folder, found, tier, made = choosing.opened(source, self.name, options.precision, options.memory)
        return OnnxEngine(
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


class Opened(NamedTuple):
    """A graph that can be run, and what is mapped of its weights."""

    session: InferenceSession
    pages: mapped.Pages


class OnnxEngine:
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
        self._low_memory = low_memory
        self._device = "cpu" if device == "auto" else device
        self._threads = threads or processor.cores()
        self._shares_arena = self._device == "cpu" and not low_memory
        folder = next(iter(graphs.values())).parent
        self._unchanged = bundle.Unchanged(folder)
        self._host = Host(config, folder)
        # Quantised weights lie in a file of their graph's name. An exact graph has none: what is called like that is
        # somebody else's.
        beside = {graph: path.with_suffix(".safetensors") for graph, path in graphs.items() if path.stem != graph}
        self._small = {graph: TensorFile(path) for graph, path in beside.items() if path.is_file()}
        self._changed: dict[str, dict[str, Any]] = {}  # by graph, what adapters make of its weights
        self._sessions: dict[str, Opened] = {}
        self._values: dict[str, list[Any]] = {}  # adapted weights: sessions refer to them and do not keep them alive
        if self._device != "cpu":
            self._find_out()
        self.support = Support(
            backend="onnx",
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
        out = self._run(graph, self._host.inputs(graph, inputs))
        return self._host.beside(inputs) | out if graph == "prepare" else out

    def close(self) -> None:
        self._sessions.clear()
        self._values.clear()
        self._changed.clear()

    def release(self, graphs: Collection[str]) -> None:
        for graph in graphs:
            self._sessions.pop(graph, None)
            self._values.pop(graph, None)
        mapped.trim()

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        return self._host.adaptable()

    def set_adapters(self, adapters: Sequence[ActiveAdapter]) -> None:
        changed: dict[str, dict[str, Any]] = {}
        for key, weight in self._host.merged(adapters):
            graph = graph_of(key)
            changed.setdefault(graph, {}).update(self._stored(graph, key, weight))
        for graph in ("prepare", "step"):
            self._sessions.pop(graph, None)
            self._values.pop(graph, None)
        self._changed = changed

    def profile(self, graph: str, inputs: Inputs) -> Sequence[Ran]:
        self.release((graph,))  # never two of a graph
        feeds, options = self._host.inputs(graph, inputs), self._options(graph)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / graph)
            session = self._kept(graph, options).session
            for _ in range(2):  # the first is not warm
                self._call(graph, session, None, feeds)
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        last = max(event["ts"] for event in events if event["name"] == "model_run")
        return [
            Ran(event["args"]["op_name"], event["args"]["provider"], event["dur"] / 1e6)
            for event in events
            if event["name"].endswith("_kernel_time") and event["ts"] >= last
        ]

    def _find_out(self) -> None:
        """Whether the device really runs a graph: what a provider does not take goes to the CPU without a word."""
        if "decode" not in self._graphs:
            return
        provider = PROVIDERS[_kind(self._device)]
        latents = np.zeros((1, self.config.autoencoder.latent_channels, 1), np.float32)
        ran = self.profile("decode", decode(self.config, latents))
        left = {one.operation for one in ran if HEAVY.search(one.operation) and one.kernel == PROVIDERS["cpu"]}
        if left:
            names = ", ".join(sorted(left))
            raise BackendUnavailable(f"device {self._device}: {provider} left {names} to the CPU; choose device cpu")

    def _run(self, graph: str, feeds: Inputs) -> Outputs:
        session, pages = self._session(graph)
        names = [output.name for output in session.get_outputs()]
        # The step's weights are read many times a request, and are packed.
        returning = contextlib.nullcontext() if graph == "step" else pages.returning()
        with returning:
            return dict(zip(names, self._call(graph, session, names, feeds, self._how(graph)), strict=True))

    def _call(self, graph: str, session: Any, names: list[str] | None, feeds: Inputs, how: Any = None) -> list[Any]:
        try:
            return session.run(names, feeds, how)
        except (*_failures(), ValueError) as e:
            raise Sa3Error(f"ONNX Runtime failed in {graph} on {self._device}: {e}") from e

    def _how(self, graph: str) -> Any:
        """With the first graph of a clip goes what the clip before left of other sizes; see _share_arena."""
        if graph != "text" or not self._shares_arena:
            return None
        options = runtime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _session(self, graph: str) -> Opened:
        return self._sessions.get(graph) or self._kept(graph, self._options(graph))

    def _kept(self, graph: str, options: Any) -> Opened:
        if self._low_memory:
            self._sessions.clear()
            mapped.trim()
        self._sessions[graph] = self._open(graph, options)
        return self._sessions[graph]

    def _open(self, graph: str, options: Any) -> Opened:
        if graph not in self._graphs:
            raise Sa3Error(f"this model has no graph {graph!r}")
        path, provider = self._graphs[graph], PROVIDERS[_kind(self._device)]
        if provider not in _available():
            raise BackendUnavailable(f"ONNX Runtime has no {provider} here; {_FIXES[_kind(self._device)]}")
        settings = _settings(self._device)
        self._unchanged.check()
        try:
            with mapped.claimed(path.parent) as pages:
                session = runtime().InferenceSession(self._model(graph), options, providers=[(provider, settings)])
            self._unchanged.check()  # as one may take its place within a moment
        except _failures() as e:
            raise BundleError(f"{path} cannot be opened by ONNX Runtime {runtime().__version__}: {e}") from e
        # A provider that fails to start is replaced by the CPU without an error.
        used = session.get_providers()[0]
        if used != provider:
            raise BackendUnavailable(
                f"device {self._device}: {provider} did not start, {used} did; {_FIXES[_kind(self._device)]}"
            )
        return Opened(session, pages)

    def _model(self, graph: str) -> Path | bytes:
        """The graph's file; where weights are stored in half precision, one that takes adapted ones as they are."""
        path, stored, small = self._graphs[graph], self._host.weights.tensors, self._small.get(graph)
        whole = [key for key in self._changed.get(graph, ()) if key in stored and not (small and key in small.tensors)]
        half = [key for key in whole if stored[key].dtype != "F32"]
        return onnx_types.as_fp32(path.read_bytes(), half) if half else path

    def _options(self, graph: str) -> Any:
        options = runtime().SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        # A plan of a run's memory is a second block of all of it, beside what the run before left behind.
        options.enable_mem_pattern = False
        # Planning which output may take whose memory goes up with the square of the nodes, most of the time it takes to
        # open a graph, and saves nothing: what is read for the last time is given back in any case.
        options.enable_mem_reuse = self._device != "cpu"  # elsewhere it was not measured
        if self._low_memory:
            # What a run needed goes back at its end, instead of waiting for the next one.
            options.enable_cpu_mem_arena = False
        if self._shares_arena:
            # What one graph needed while it ran serves the next; weights are apart, and go with their session.
            _share_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if graph != "step" and graph not in self._small:
            # Packed copies of the weights pay off in the one graph that runs many times a request. Quantised weights
            # are packed everywhere: without, they would be made fp32 again in every run.
            options.add_session_config_entry("session.disable_prepacking", "1")
        changed = self._changed.get(graph)
        if changed:
            # Only a file is known to lie beside the weights that stay.
            beside = str(self._graphs[graph].parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", beside)
            self._values[graph] = list(changed.values())
            options.add_external_initializers(list(changed), self._values[graph])
        return options

    def _stored(self, graph: str, key: str, weight: Array) -> dict[str, Any]:
        """A changed weight as the graph takes it. Quantised again where it was: the kept original plus the change is
        no further from what it stands for than the original was.
        """
        value = runtime().OrtValue.ortvalue_from_numpy
        file = self._small.get(graph)
        if file is None or key not in file.tensors:
            return {key: value(np.ascontiguousarray(weight))}
        levels, scale = Blocks.parse(file.metadata[key]).store(weight)
        return {key: value(levels), key + SCALE: value(scale)}


def _kind(device: str) -> str:
    return "cpu" if device == "auto" else device.partition(":")[0]


def _settings(device: str) -> dict[str, Any]:
    """What a provider is told."""
    found: dict[str, Any] = {"device_id": int(device.partition(":")[2])} if ":" in device else {}
    if _kind(device) == "cuda":
        _load_cuda()
        found["use_tf32"] = 0  # three digits, where fp32 promises seven
    return found


@cache
def _load_cuda() -> None:
    """Once per process: CUDA's libraries out of their Python packages, where ONNX Runtime does not look by itself. What
    is missing it prints; a provider that then does not start is an error of its own.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        runtime().preload_dlls()


@cache
def _share_arena() -> None:
    """Once per process. It grows by what is asked for, where the usual one doubles."""
    ort = runtime()
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def _available() -> list[str]:
    return runtime().get_available_providers()


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: one class per status code, with no common parent of their own."""
    state = runtime().capi.onnxruntime_pybind11_state
    found = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*found, RuntimeError)


BACKEND = OnnxBackend()
