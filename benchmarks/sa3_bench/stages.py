"""Each graph by itself at the size of a case: inputs of the right shapes, seeded."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from sa3_bench import work
from sa3_bench.cases import Case
from sa3_bench.observed import Observed
from sa3_engines import graphs, likeness, tables
from sa3_engines.engine import Inputs, open_ahead
from sa3_runtime import lengths

GRAPHS = ("text", "prepare", "step", "decode")  # of a clip, in their order
TOKENS, CONTEXT = 20, 22  # of a usual prompt: its own, the padding's one, the duration


def inputs(engine: Observed, case: Case, graph: str) -> Inputs:
    """For `step`, `prepare` is run first."""
    config, rng = engine.config, np.random.default_rng(0)
    assert config.dit is not None and config.text is not None
    frames = lengths.frames(config, [case.seconds], case.padding, config.sample_size)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((case.batch, *shape), np.float32)

    match graph:
        case "text":
            tokens = min(TOKENS, config.text.max_tokens)
            ids = rng.integers(1, config.text.vocab_size, (case.batch, tokens))
            return graphs.text(config.text, ids, np.ones((case.batch, tokens), np.float32))
        case "prepare" | "step":
            context, embedded = normal(CONTEXT, config.dit.context_width), normal(config.dit.global_width)
            prepare = graphs.prepare(config, frames, context, embedded, None)
            if graph == "prepare":
                return prepare
            level = tables.timestep_features(np.full(case.batch, 0.5, np.float32), config.dit)
            return {**engine.run("prepare", prepare), "x": normal(config.dit.channels, frames), "timestep": level}
        case "encode":
            return graphs.encode(config, _music(engine, case))
        case _:
            heard = -(-int(case.seconds * config.sample_rate) // config.ratio)
            return graphs.decode(config, normal(config.autoencoder.latent_channels, heard))


def _music(engine: Observed, case: Case) -> np.ndarray:
    config = engine.config
    clip = likeness.music(config.sample_rate, case.seconds)[: config.autoencoder.channels]
    missing = -clip.shape[1] % graphs.encode_multiple(config)
    return np.repeat(np.pad(clip, ((0, 0), (0, missing)))[None], case.batch, axis=0)


def opening(engine: Observed, case: Case) -> float:
    """Seconds until every graph of a clip is open, told ahead as a pipeline does. Engines open a graph when it is first
    used, so this is what the first of two clips takes longer than the second.
    """
    short, marks = replace(case, seconds=1.0, batch=1), [time.perf_counter()]
    open_ahead(engine, "step", "prepare", "decode")
    for _ in range(2):
        for graph in GRAPHS:
            engine.run(graph, inputs(engine, short, graph))
        marks.append(time.perf_counter())
    return max(0.0, (marks[1] - marks[0]) - (marks[2] - marks[1]))


def encode(engine: Observed, case: Case) -> dict[str, Any]:
    """One pass of the encoder over as much sound as the case makes: what no prompt-to-sound run does."""
    given = inputs(engine, case, "encode")
    short = given["audio"][:1, :, : graphs.encode_multiple(engine.config)]
    engine.run("encode", graphs.encode(engine.config, np.ascontiguousarray(short)))  # opens the graph, untimed
    start = time.perf_counter()
    engine.run("encode", given)
    seconds = time.perf_counter() - start
    return {"calls": 1, "seconds": seconds, **work_of(engine)}


def work_of(engine: Observed) -> dict[str, int]:
    """Of the graph that was run last."""
    call = engine.calls[-1]
    one = work.count(engine.config, call.graph, call.sizes, engine.support.precision)
    return {"flops": one.flops, "bytes": one.bytes}
