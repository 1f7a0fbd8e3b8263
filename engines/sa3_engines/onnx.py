"""The ONNX engine: runs a bundle's graphs in ONNX Runtime, on a CPU or through another execution provider.

A graph's session is made when it is first used, and its weights are mapped from the checkpoint's own files. What the
seam lets callers leave out is always an input of the graphs, and filled in here.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa3_engines import bundle
from sa3_engines.adapters import ActiveAdapter, Merger
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Inputs, Options, Outputs, Support
from sa3_engines.errors import BackendUnavailable, BundleError, InvalidRequest, Sa3Error
from sa3_engines.models import WEIGHTS, Source
from sa3_engines.tensors import TensorFile

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_FIXES = {
    "cpu": "pip install --force-reinstall onnxruntime",
    # The two packages share one folder and cannot stand together.
    "cuda": "pip uninstall onnxruntime, then pip install onnxruntime-gpu",
    "directml": "on Windows, pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "coreml": "on a Mac, pip install onnxruntime",
}
PRECISIONS = ("fp32",)
DIT, TABLE, CONDITIONERS = "model.model.", "model.encoder.embed_tokens.weight", "conditioner.conditioners."
CONSTANTS = {
    "padding_embedding": CONDITIONERS + "prompt.padding_embedding",
    "seconds.weight": CONDITIONERS + "seconds_total.embedder.embedding.1.weight",
    "seconds.bias": CONDITIONERS + "seconds_total.embedder.embedding.1.bias",
}
# The transformer's modules that `prepare` applies; all others are `step`'s.
_OF_PREPARE = ("to_cond_embed.", "to_global_embed.", ".cross_attn.to_kv.", ".to_local_embed.")


class OnnxBackend:
    name = "onnx"

    def why_not(self, device: str = "auto") -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed; pip install onnxruntime"
        kind = _kind(device)
        if kind not in PROVIDERS:
            return f"no device {device!r}; choose from {', '.join(PROVIDERS)}"
        available = _available()
        if PROVIDERS[kind] in available:
            return None
        return (
            f"device {device}: ONNX Runtime has no {PROVIDERS[kind]} here, only {', '.join(available)}; {_FIXES[kind]}"
        )

    def why_not_open(self, source: Source) -> str | None:
        if source.folder is None:
            return f"random weights are graphs only once exported; run: sa3-export --model {source.name} --target onnx"
        if not source.has_graphs:
            return f"{source.folder} holds no ONNX graphs; run: sa3-export --model {source.name} --target onnx"
        try:
            made_for = bundle.load(source.folder).backends
        except BundleError:
            return None  # opening says what is wrong with it
        if self.name in made_for:
            return None
        return (
            f"{source.folder} was exported for {', '.join(made_for)}; run: sa3-export --target onnx on its checkpoint"
        )

    def devices(self) -> list[str]:
        available = _available()
        return [device for device, provider in PROVIDERS.items() if provider in available]

    def versions(self) -> Mapping[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def open(self, source: Source, options: Options) -> OnnxEngine:
        for reason in (self.why_not(options.device), self.why_not_open(source)):
            if reason:
                raise BackendUnavailable(reason)
        assert source.folder is not None
        found = bundle.read(source.folder)
        if options.precision not in ("auto", found.precision):
            raise BackendUnavailable(
                f"the onnx engine has no precision {options.precision!r} for {source.name}; "
                f"this bundle's is {found.precision} (or auto)"
            )
        graphs = {name: source.folder / graph.file for name, graph in found.graphs.items()}
        return OnnxEngine(
            source.config, graphs, device=options.device, threads=options.threads, versions=self.versions()
        )


class OnnxEngine:
    def __init__(
        self,
        config: ModelConfig,
        graphs: Mapping[str, Path],
        *,
        device: str = "cpu",
        threads: int | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """graphs: the files by name, all in the folder that holds the weights."""
        self.config = config
        self._graphs = graphs
        self._device = "cpu" if device == "auto" else device
        self._threads = threads or _cores()
        folder = next(iter(graphs.values())).parent
        self._weights = TensorFile(folder / WEIGHTS)
        self._text = TensorFile(folder / config.text.folder / WEIGHTS) if config.text else None
        self._merger = Merger()
        self._merged: dict[str, Array] = {}
        self._sessions: dict[str, InferenceSession] = {}
        self._values: dict[str, list[Any]] = {}  # adapted weights: sessions refer to them and do not keep them alive
        if self._device != "cpu":
            self._session("decode")  # find out now whether the device really runs it
        self.support = Support(
            backend="onnx",
            device=self._device,
            precision="fp32",
            graphs=frozenset(graphs),
            adapters="step" in graphs,
            versions=versions or {},
        )

    def constants(self) -> Mapping[str, Array]:
        if self.config.dit is None:
            return {}
        return {name: self._weights.array(key) for name, key in CONSTANTS.items()}

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        match graph:
            case "text":
                return self._run("text", self._embedded(inputs))
            case "prepare":
                return self._prepare(inputs)
            case "encode":
                return self._run("encode", {**inputs, **self._noise(inputs, 1)})
            case "decode":
                return self._run("decode", self._decode_inputs(inputs))
            case _:
                return self._run(graph, inputs)

    def close(self) -> None:
        self._sessions.clear()
        self._values.clear()
        self._merged.clear()

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        shapes = {key: self._weights.shape(key) for key in self._weights.tensors}
        return {
            _module(key): (shape[0], int(np.prod(shape[1:])))
            for key, shape in shapes.items()
            if key.startswith(DIT) and key.endswith(".weight") and len(shape) > 1
        }

    def set_adapters(self, adapters: Sequence[ActiveAdapter]) -> None:
        merged: dict[str, Array] = {}
        for module in self.adaptable() if adapters else ():
            key = f"model.{module}.weight"
            weight = self._merger.weight(module, self._weights.array(key), adapters)
            if weight is not None:
                merged[key] = weight
        for graph in ("prepare", "step"):
            self._sessions.pop(graph, None)
            self._values.pop(graph, None)
        self._merged = merged

    def _embedded(self, inputs: Inputs) -> Outputs:
        assert self._text is not None
        rest = {name: value for name, value in inputs.items() if name != "ids"}
        return rest | {"rows": self._text.rows(TABLE, inputs["ids"])}

    def _prepare(self, inputs: Inputs) -> Outputs:
        rope = {name: inputs[name] for name in ("rope_cos", "rope_sin")}
        batch, context = inputs["context"].shape[:2]
        length = len(inputs["rope_cos"])
        masks = {
            "context_bias": np.zeros((batch, context), np.float32),
            "key_bias": np.zeros((batch, length), np.float32),
            "value_gate": np.ones((batch, length), np.float32),
            "out_gate": np.ones((batch, length), np.float32),
        }
        given = {name: inputs[name] for name in masks if inputs.get(name) is not None}
        prepared = self._run("prepare", {name: inputs[name] for name in ("context", "global_cond", "local")})
        return prepared | rope | masks | given

    def _decode_inputs(self, inputs: Inputs) -> Outputs:
        batch, _, latents = inputs["latents"].shape
        gate = inputs.get("frame_gate")
        if gate is None:
            gate = np.ones((batch, latents), np.float32)
        return {**inputs, "frame_gate": gate, **self._noise(inputs, self.config.autoencoder.decoder.stride)}

    def _noise(self, inputs: Inputs, count: int) -> Outputs:
        if inputs.get("token_noise") is not None:
            return {}
        ae = self.config.autoencoder
        if "audio" in inputs:
            batch, latents, width = len(inputs["audio"]), inputs["audio"].shape[2] // ae.ratio, ae.encoder.width
        else:
            batch, latents, width = len(inputs["latents"]), inputs["latents"].shape[2], ae.decoder.width
        return {"token_noise": np.zeros((batch, latents, count, width), np.float32)}

    def _run(self, graph: str, inputs: Inputs) -> Outputs:
        if graph not in self._graphs:
            raise Sa3Error(f"this model has no graph {graph!r}")
        session = self._session(graph)
        feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in inputs.items()}
        names = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except (*_failures(), ValueError) as e:
            raise Sa3Error(f"ONNX Runtime failed in {graph} on {self._device}: {e}") from e

    def _session(self, graph: str) -> InferenceSession:
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        return self._sessions[graph]

    def _open(self, graph: str) -> InferenceSession:
        import onnxruntime

        path, provider = self._graphs[graph], PROVIDERS[_kind(self._device)]
        if provider not in _available():
            raise BackendUnavailable(f"ONNX Runtime has no {provider} here; {_FIXES[_kind(self._device)]}")
        chosen: list[Any] = [(provider, {"device_id": _index(self._device)})] if ":" in self._device else [provider]
        try:
            session = onnxruntime.InferenceSession(path, self._options(graph), providers=chosen)
        except _failures() as e:
            raise BundleError(f"{path} cannot be opened by ONNX Runtime {onnxruntime.__version__}: {e}") from e
        # A provider that fails to start is replaced by the CPU without an error.
        used = session.get_providers()[0]
        if used != provider:
            raise BackendUnavailable(
                f"device {self._device}: {provider} did not start, {used} did; {_FIXES[_kind(self._device)]}"
            )
        return session

    def _options(self, graph: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        if graph != "step":
            # Packed copies of the weights pay off in the one graph that runs many times a request.
            options.add_session_config_entry("session.disable_prepacking", "1")
        merged = {key: array for key, array in self._merged.items() if _graph_of(key) == graph}
        if merged:
            self._values[graph] = [self._value(key, array) for key, array in merged.items()]
            options.add_external_initializers(list(merged), self._values[graph])
        return options

    def _value(self, key: str, array: Array) -> Any:
        """In the type the graph declares, which is the file's: adapted half-precision weights are rounded once more."""
        from onnxruntime import OrtValue

        match self._weights.tensors[key].dtype:
            case "F16":
                return OrtValue.ortvalue_from_numpy(array.astype(np.float16))
            case "BF16":
                bits = array.view(np.uint32)
                rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
                return OrtValue.ortvalue_from_numpy_with_onnx_type(rounded.astype(np.uint16), 16)
            case _:
                return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _kind(device: str) -> str:
    return "cpu" if device == "auto" else device.partition(":")[0]


def _index(device: str) -> int:
    number = device.partition(":")[2]
    if not number.isdecimal():
        raise InvalidRequest(f"device {device!r}: after the colon comes a number, as in cuda:0")
    return int(number)


def _available() -> list[str]:
    import onnxruntime

    return onnxruntime.get_available_providers()


def _cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: one class per status code, with no common parent of their own."""
    from onnxruntime import capi

    state: Any = capi.onnxruntime_pybind11_state  # pyright: ignore[reportAttributeAccessIssue]
    found = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*found, RuntimeError)


def _module(key: str) -> str:
    return key.removeprefix("model.").removesuffix(".weight")


def _graph_of(key: str) -> str:
    return "prepare" if any(part in key for part in _OF_PREPARE) else "step"


BACKEND = OnnxBackend()
