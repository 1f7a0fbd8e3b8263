"""The torch engine as the reference runs it, without the savings: what tiers are compared with.

The text encoder reads every padded position, cross-attention sees each of them, what does not depend on the step is
computed in each, and latents that nobody hears are decoded, those that two windows share twice. The sound is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sa3_engines import graphs
from sa3_engines.engine import Engine, Inputs, Outputs, Support
from sa3_runtime.coding import Chunking

Array = np.ndarray


class Plain:
    def __init__(self, engine: Engine, made: int) -> None:
        """made: latents of a clip, all of which the reference decodes, heard or not."""
        self.config = engine.config
        self.support: Support = engine.support
        self._engine, self._made = engine, made

    def constants(self) -> Mapping[str, Array]:
        return self._engine.constants()

    def close(self) -> None:
        self._engine.close()

    def run(self, graph: str, inputs: Inputs) -> Outputs:
        match graph:
            case "text":
                return self._text(inputs)
            case "prepare":
                return {"given": self._context(inputs)}
            case "step":
                rest = {name: value for name, value in inputs.items() if name != "given"}
                return self._engine.run("step", self._engine.run("prepare", inputs["given"]) | rest)
            case "decode":
                return self._decode(inputs)
            case _:
                return self._engine.run(graph, inputs)

    def _text(self, inputs: Inputs) -> Outputs:
        assert self.config.text is not None
        ids: Array = inputs["ids"]
        count, longest = ids.shape[1], self.config.text.max_tokens
        mask = np.zeros((len(ids), longest), np.int64)
        mask[:, :count] = inputs["mask_bias"] == 0
        full = graphs.text(self.config.text, np.pad(ids, ((0, 0), (0, longest - count))), mask)
        return {"hidden": self._engine.run("text", full)["hidden"][:, :count]}

    def _context(self, inputs: Inputs) -> Inputs:
        """Every padded position of its own, instead of one that counts for all of them."""
        bias = inputs.get("context_bias")
        if bias is None:
            return inputs
        context: Array = inputs["context"]
        counts = np.rint(np.exp(bias[0])).astype(int)
        rest = {name: value for name, value in inputs.items() if name != "context_bias"}
        return rest | {"context": np.repeat(context, np.maximum(counts, 1), axis=1)}

    def _decode(self, inputs: Inputs) -> Outputs:
        """In whole windows, what two of them share in both, and beyond the end."""
        heard = inputs["latents"].shape[2]
        latents: Array = np.pad(inputs["latents"], ((0, 0), (0, 0), (0, max(0, self._made - heard))))
        total, ratio = latents.shape[2], self.config.ratio
        chunking = Chunking() if self.config.autoencoder.chunked else Chunking(size=total, overlap=0)
        parts: list[Array] = []
        for start, first, end in chunking.windows(total):
            window = np.ascontiguousarray(latents[:, :, start : start + chunking.size])
            given = graphs.decode(self.config, window)
            audio = self._engine.run("decode", given)["audio"]
            parts.append(audio[:, :, (first - start) * ratio : (end - start) * ratio])
        return {"audio": np.concatenate(parts, axis=2)[:, :, : heard * ratio]}
