"""The torch engine: the networks as they are, on a CPU, an NVIDIA GPU or an Apple GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sa3_engines import choosing, processor
from sa3_engines.adapters import ActiveAdapter, Merger
from sa3_engines.config import ModelConfig
from sa3_engines.engine import CODEC, GRAPHS, Inputs, Options, Outputs, Ran, Support
from sa3_engines.errors import BackendUnavailable, Sa3Error
from sa3_engines.models import Source
from sa3_engines.tiers import EXACT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stable_audio_3.checkpoint import Networks

DEVICES = ("cuda", "mps", "cpu")


class TorchBackend:
    name = "torch"

    def why_not(self, device: str = "auto") -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed; pip install 'sa3-runtime[torch]'"
        kind, colon, number = device.partition(":")
        if kind not in ("auto", *DEVICES):
            return f"no device {device!r}; choose from {', '.join(DEVICES)}"
        if colon and kind != "cuda":
            return f"no device {device!r}; {kind} has no numbers"
        if colon and not re.fullmatch("[0-9]+", number):
            return f"no device {device!r}; a GPU is cuda, or one of several by its number: cuda:0, cuda:1"
        if kind in ("auto", "cpu") or device in self.devices():
            return None
        found = ", ".join(self.devices())
        return f"device {device} is not here; PyTorch sees {found}"

    def why_not_open(self, source: Source, precision: str = "auto") -> str | None:
        if source.seed is not None or source.has_weights:
            return None
        return f"{source.folder} holds no model.safetensors"

    def devices(self) -> list[str]:
        import torch

        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        found = (["cuda"] if found else []) + found
        if torch.backends.mps.is_available():
            found.append("mps")
        return [*found, "cpu"]

    def versions(self) -> Mapping[str, str]:
        import torch

        found = {"torch": str(torch.__version__)}
        if torch.version.cuda:
            found["cuda"] = torch.version.cuda
        return found

    def open(self, source: Source, options: Options) -> TorchEngine:
        import torch

        from stable_audio_3 import checkpoint

        device = self.devices()[0] if options.device == "auto" else options.device
        precision = options.precision
        if precision == "auto":
            # What the reference runs: half on CUDA, fp32 elsewhere (fp16 on Apple GPUs is known to give noise).
            precision = "fp16" if device.startswith("cuda") else "fp32"
        precision = "fp32" if precision == EXACT else precision
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if precision not in dtypes:
            raise BackendUnavailable(
                f"the torch engine has no precision {precision!r}, only exact, {', '.join(dtypes)}; "
                f"{choosing.to_run(source, 'onnx', precision)}"
            )
        # By itself torch counts the cores of the machine, also where a container has not the time of all.
        torch.set_num_threads(options.threads or min(torch.get_num_threads(), processor.cores()))
        networks = checkpoint.load(source, device=device)
        checkpoint.check_frequencies(networks)
        if networks.dit is not None:
            # The autoencoder's differential attention cancels in half precision, and the text encoder is small.
            networks.dit.to(dtypes[precision])
        return TorchEngine(source.config, networks, torch.device(device), precision, self.versions())


class TorchEngine:
    def __init__(
        self,
        config: ModelConfig,
        networks: Networks,
        device: torch.device,
        precision: str,
        versions: Mapping[str, str],
    ) -> None:
        self.config = config
        self.networks = networks
        self.device = device
        graphs = GRAPHS if networks.dit is not None else CODEC
        self.support = Support(
            backend="torch",
            device=str(device),
            precision=precision,
            tier=EXACT if precision == "fp32" else "",
            graphs=frozenset(graphs),
            adapters=networks.dit is not None,
            versions=versions,
        )
        self._merger = Merger()
        self._originals: dict[str, Any] = {}
        self._adapters: tuple[ActiveAdapter, ...] = ()

    def constants(self) -> Mapping[str, np.ndarray]:
        conditioners = self.networks.conditioners
        if conditioners is None:
            return {}
        weights = conditioners.state_dict()
        names = {
            "padding_embedding": "prompt.padding_embedding",
            "seconds.weight": "seconds_total.embedder.embedding.1.weight",
            "seconds.bias": "seconds_total.embedder.embedding.1.bias",
        }
        return {name: weights[key].float().cpu().numpy() for name, key in names.items()}

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        import torch

        if graph not in self.support.graphs:
            raise Sa3Error(f"this model has no graph {graph!r}")
        with torch.inference_mode(), _all_digits():
            try:
                return getattr(self, f"_{graph}")(inputs)
            except torch.OutOfMemoryError as e:
                raise Sa3Error(f"{self.device} ran out of memory in {graph}: {e}") from e

    def profile(self, graph: str, inputs: Inputs) -> Sequence[Ran]:
        from torch.profiler import ProfilerActivity, profile

        self.run(graph, inputs)  # warm
        watched = [ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU]
        with profile(activities=watched) as found:
            self.run(graph, inputs)
        rows = [(one.name, one.self_device_time_total or one.self_cpu_time_total) for one in found.events() or ()]
        return [Ran(name, str(self.device), microseconds / 1e6) for name, microseconds in rows]

    def close(self) -> None:
        self.__dict__.pop("networks", None)
        self._originals.clear()

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        return {f"model.{name}": (len(m.weight), m.weight[0].numel()) for name, m in self._modules()}

    def set_adapters(self, adapters: Sequence[ActiveAdapter]) -> None:
        """Nothing changes where making the weights fails."""
        try:
            self._merge(adapters)
        except Exception:
            # Made once more, since keeping them until all are made would take the transformer's memory again.
            self._merge(self._adapters)
            raise
        self._adapters = tuple(adapters)

    def _merge(self, adapters: Sequence[ActiveAdapter]) -> None:
        import torch

        for name, module in self._modules():
            base = self._originals.get(name, module.weight.data)
            merged = None
            if adapters:
                original, largest = base.float().cpu().numpy(), torch.finfo(base.dtype).max
                merged = self._merger.weight(f"model.{name}", original, adapters, largest=largest)
            if merged is None:
                module.weight.data = base
                self._originals.pop(name, None)
            else:
                self._originals[name] = base
                module.weight.data = torch.from_numpy(merged).to(base.device, base.dtype)

    def _modules(self) -> list[tuple[str, Any]]:
        from torch import nn

        assert self.networks.dit is not None
        return [(n, m) for n, m in self.networks.dit.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d))]

    def _tensor(self, value: Any) -> Any:
        """None stays None: inputs that may be left out."""
        import torch

        if value is None:
            return None
        # A copy where the array is shared or not the caller's to write: torch would warn, and might write.
        array = np.ascontiguousarray(value)
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def _half(self, value: Any) -> Tensor:
        tensor = self._tensor(value)
        assert self.networks.dit is not None
        return tensor.to(self.networks.dit.preprocess_conv.weight.dtype)

    def _rope(self, inputs: Inputs) -> tuple[Any, Any]:
        return self._tensor(inputs["rope_cos"]), self._tensor(inputs["rope_sin"])

    def _text(self, inputs: Inputs) -> Outputs:
        text = self.networks.text
        assert text is not None
        ids = self._tensor(inputs["ids"])
        rows = text.embed_tokens(ids).to(text.norm.weight.dtype)
        hidden = text(rows, self._tensor(inputs["mask_bias"]), self._rope(inputs))
        return {"hidden": _array(hidden)}

    def _prepare(self, inputs: Inputs) -> Outputs:
        from stable_audio_3.networks.dit import Masks

        assert self.networks.dit is not None
        prepared = self.networks.dit.prepare(*(self._half(inputs[k]) for k in ("context", "global_cond", "local")))
        masks = Masks(*(self._tensor(inputs.get(name)) for name in Masks._fields))
        return {"prepared": prepared, "rope": self._rope(inputs), "masks": masks}

    def _step(self, inputs: Inputs) -> Outputs:
        assert self.networks.dit is not None
        x, timestep = self._half(inputs["x"]), self._half(inputs["timestep"])
        v = self.networks.dit.step(x, timestep, inputs["prepared"], inputs["rope"], inputs["masks"])
        return {"velocity": _array(v)}

    def _encode(self, inputs: Inputs) -> Outputs:
        noise = self._tensor(inputs.get("token_noise"))
        latents = self.networks.autoencoder.encode(self._tensor(inputs["audio"]), self._rope(inputs), noise)
        return {"latents": _array(latents)}

    def _decode(self, inputs: Inputs) -> Outputs:
        noise, gate = self._tensor(inputs.get("token_noise")), self._tensor(inputs.get("frame_gate"))
        audio = self.networks.autoencoder.decode(self._tensor(inputs["latents"]), self._rope(inputs), noise, gate)
        return {"audio": _array(audio)}


@contextlib.contextmanager
def _all_digits() -> Generator[None]:
    """On NVIDIA GPUs torch's convolutions multiply fp32 with three digits (TF32), unless they are told not to."""
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


BACKEND = TorchBackend()
