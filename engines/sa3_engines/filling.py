"""What the host does for engines whose graphs take every input: fills in those the seam lets callers leave out, looks
up token embeddings, and makes adapted weights. All from the checkpoint's files, which lie beside the graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sa3_engines import mapped
from sa3_engines.adapters import LARGEST, ActiveAdapter, Merger
from sa3_engines.config import ModelConfig
from sa3_engines.engine import Inputs, Outputs
from sa3_engines.models import WEIGHTS
from sa3_engines.tensors import TensorFile

Array = np.ndarray
DIT, TABLE, CONDITIONERS = "model.model.", "model.encoder.embed_tokens.weight", "conditioner.conditioners."
CONSTANTS = {
    "padding_embedding": CONDITIONERS + "prompt.padding_embedding",
    "seconds.weight": CONDITIONERS + "seconds_total.embedder.embedding.1.weight",
    "seconds.bias": CONDITIONERS + "seconds_total.embedder.embedding.1.bias",
}
# The transformer's modules that `prepare` applies; all others are `step`'s.
_OF_PREPARE = ("to_cond_embed.", "to_global_embed.", ".cross_attn.to_kv.", ".to_local_embed.")


class Host:
    def __init__(self, config: ModelConfig, folder: Path) -> None:
        """folder: where the weights and the graphs lie."""
        self.config = config
        self.weights = TensorFile(folder / WEIGHTS)
        self._text = TensorFile(folder / config.text.folder / WEIGHTS) if config.text else None
        self._merger = Merger()

    def constants(self) -> Mapping[str, Array]:
        if self.config.dit is None:
            return {}
        return {name: self.weights.array(key) for name, key in CONSTANTS.items()}

    def adaptable(self) -> Mapping[str, tuple[int, int]]:
        shapes = {key: self.weights.shape(key) for key in self.weights.tensors}
        return {
            _module(key): (shape[0], int(np.prod(shape[1:])))
            for key, shape in shapes.items()
            if key.startswith(DIT) and key.endswith(".weight") and len(shape) > 1
        }

    def merged(
        self, adapters: Sequence[ActiveAdapter], graph: str | None = None, *, largest: float = LARGEST
    ) -> Iterator[tuple[str, Array]]:
        """The weights that the adapters change and their names in the checkpoint, one at a time; of one graph alone,
        where it is named. largest: what they may hold where the engine puts them.
        """
        if not adapters:
            return
        # Every original is read once: all of them would be in memory beside what was made of them.
        with mapped.returning(self.weights.path.parent, [self.weights.address()]):
            for module in self.adaptable():
                key = f"model.{module}.weight"
                if graph is not None and graph_of(key) != graph:
                    continue
                weight = self._merger.weight(module, self.weights.array(key), adapters, largest=largest)
                if weight is not None:
                    yield key, weight

    def inputs(self, graph: str, given: Inputs) -> Outputs:
        """All that the graph itself takes, in fp32."""
        match graph:
            case "text":
                assert self._text is not None
                rest = {name: value for name, value in given.items() if name != "ids"}
                full = rest | {"rows": self._text.rows(TABLE, given["ids"])}
            case "prepare":
                full = {name: given[name] for name in ("context", "global_cond", "local")}
            case "encode":
                full = {**given, **self._noise(given, 1)}
            case "decode":
                full = {**given, **self._gate(given), **self._noise(given, self.config.autoencoder.decoder.stride)}
            case _:
                full = given
        return {name: np.ascontiguousarray(value, np.float32) for name, value in full.items()}

    def beside(self, given: Inputs) -> Outputs:
        """What goes from `prepare`'s inputs to `step` as it is: rotary tables and masks."""
        batch, context = given["context"].shape[:2]
        length = len(given["rope_cos"])
        masks = {
            "context_bias": np.zeros((batch, context), np.float32),
            "key_bias": np.zeros((batch, length), np.float32),
            "value_gate": np.ones((batch, length), np.float32),
            "out_gate": np.ones((batch, length), np.float32),
        }
        found = {name: given[name] for name in masks if given.get(name) is not None}
        return {name: given[name] for name in ("rope_cos", "rope_sin")} | masks | found

    def _gate(self, given: Inputs) -> Outputs:
        if given.get("frame_gate") is not None:
            return {}
        batch, _, latents = given["latents"].shape
        return {"frame_gate": np.ones((batch, latents), np.float32)}

    def _noise(self, given: Inputs, count: int) -> Outputs:
        if given.get("token_noise") is not None:
            return {}
        ae = self.config.autoencoder
        if "audio" in given:
            batch, latents, width = len(given["audio"]), given["audio"].shape[2] // ae.ratio, ae.encoder.width
        else:
            batch, latents, width = len(given["latents"]), given["latents"].shape[2], ae.decoder.width
        return {"token_noise": np.zeros((batch, latents, count, width), np.float32)}


def graph_of(key: str) -> str:
    """Which graph a weight of the transformer is in."""
    return "prepare" if any(part in key for part in _OF_PREPARE) else "step"


def _module(key: str) -> str:
    return key.removeprefix("model.").removesuffix(".weight")
