"""An engine that computes nothing, for tests of what stands above it: shapes are right, values depend on the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sa3_engines.config import ModelConfig
from sa3_engines.engine import GRAPHS, Inputs, Options, Outputs, Support
from sa3_engines.models import Source


class NullBackend:
    name = "null"

    def why_not(self, device: str = "auto") -> str | None:
        return None if device in ("auto", "cpu") else f"no device {device!r}; this one computes nothing, on cpu"

    def why_not_open(self, source: Source, precision: str = "auto") -> str | None:
        return None

    def devices(self) -> Sequence[str]:
        return ["cpu"]

    def versions(self) -> Mapping[str, str]:
        return {}

    def open(self, source: Source, options: Options) -> NullEngine:
        return NullEngine(source.config)


class NullEngine:
    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.support = Support(backend="null", device="cpu", precision="fp32", graphs=frozenset(GRAPHS), versions={})
        self.calls: list[str] = []

    def constants(self) -> Mapping[str, np.ndarray]:
        width = self.config.dit.context_width if self.config.dit else 0
        return {
            "padding_embedding": np.zeros(width, np.float32),
            "seconds.weight": np.zeros((width, 256), np.float32),
            "seconds.bias": np.zeros(width, np.float32),
        }

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        self.calls.append(graph)
        ae = self.config.autoencoder
        match graph:
            case "text":
                return {"hidden": np.repeat(inputs["ids"][:, :, None].astype(np.float32), self._width(), axis=2)}
            case "prepare":
                return dict(inputs)
            case "step":
                return {"velocity": inputs["x"] * np.float32(0.5)}
            case "encode":
                items, _, samples = inputs["audio"].shape
                level = inputs["audio"].reshape(items, 1, samples // ae.ratio, -1).mean(axis=3)
                return {"latents": np.repeat(level, ae.latent_channels, axis=1)}
            case _:
                level = inputs["latents"].mean(axis=1, keepdims=True) * np.float32(0.1)
                return {"audio": np.repeat(np.repeat(level, ae.channels, axis=1), ae.ratio, axis=2)}

    def _width(self) -> int:
        return self.config.text.width if self.config.text else 0

    def close(self) -> None:
        self.calls.append("close")


BACKEND = NullBackend()
