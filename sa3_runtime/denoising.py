"""The velocity that samplers follow: guidance, adapters by noise level, and what the engine prepared, kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sa3_engines import graphs, tables
from sa3_engines.adapters import ActiveAdapter
from sa3_engines.engine import Engine, Outputs, release
from sa3_runtime import conditioning
from sa3_runtime.adapters import Adapters
from sa3_runtime.conditioning import Conditioner
from sa3_runtime.guidance import Guidance
from sa3_runtime.request import Plan

Array = np.ndarray
Tokens = tuple[Array, Array]  # ids and mask, each (items, max_tokens)


class Prompts:
    """What a batch asks for, as the transformer sees it with and without guidance."""

    def __init__(
        self,
        conditioner: Conditioner,
        tokens: Tokens,
        negative: Tokens | None,
        seconds: Sequence[float],
        active: list[ActiveAdapter],
    ) -> None:
        self.global_cond = conditioner.seconds(np.array(seconds, np.float32), active)
        self.with_prompt = conditioner.context(*tokens, self.global_cond)
        items, width = self.global_cond.shape
        self.without = (
            conditioning.without_prompt(items, width)
            if negative is None
            else conditioner.context(*negative, self.global_cond, negative=True)
        )


class Denoiser:
    def __init__(
        self,
        engine: Engine,
        adapters: Adapters,
        planned: Plan,
        prompts: Prompts,
        local: Array | None,
        valid: Array | None,
        frames: int,
        check: Callable[[], None],
        *,
        last: bool = False,
    ) -> None:
        """valid (items, frames) None: nothing is masked. `check` raises when the caller has had enough. last: nothing
        is prepared after this.
        """
        request = planned.request
        self._engine, self._adapters, self._request = engine, adapters, request
        self._prompts, self._local, self._frames, self._check = prompts, local, frames, check
        # Where every frame of every item is sound there is nothing to mask.
        self._valid = None if valid is None or valid.all() else valid
        self._guidance = Guidance(
            scale=planned.cfg_scale,
            apg_scale=request.apg_scale,
            interval=request.cfg_interval,
            rescale=request.cfg_rescale,
            norm_threshold=request.cfg_norm_threshold,
        )
        self._prepared: dict[bool, Outputs] = {}
        # Adapters and guidance that come and go with the noise level have it prepared again on the way.
        steady = not adapters.loaded and (planned.cfg_scale == 1 or tuple(request.cfg_interval) == (0, 1))
        self._prepares_once = last and steady

    def velocity(self, x: Array, t: Array) -> Array:
        """x (items, channels, frames), t (items,)"""
        self._check()
        if self._adapters.use(self._adapters.active(self._request.adapters, float(t[0]))):
            self._prepared.clear()
        if not self._guidance.active(t):
            return self._run(x, t, guided=False)
        both = self._run(np.concatenate((x, x)), np.concatenate((t, t)), guided=True)
        return self._guidance.combine(x, t, both[: len(x)], both[len(x) :], self._valid)

    def _run(self, x: Array, t: Array, *, guided: bool) -> Array:
        assert self._engine.config.dit is not None
        if guided not in self._prepared:
            self._prepared[guided] = self._prepare(guided=guided)
            if self._prepares_once:
                release(self._engine, "prepare")
        features = tables.timestep_features(t, self._engine.config.dit)
        inputs = {**self._prepared[guided], "x": np.ascontiguousarray(x, np.float32), "timestep": features}
        return self._engine.run("step", inputs)["velocity"]

    def _prepare(self, *, guided: bool) -> Outputs:
        """Once per request: with guidance, the batch twice, with the prompt first."""
        prompts, times = self._prompts, 2 if guided else 1
        context = prompts.with_prompt.over(prompts.without) if guided else prompts.with_prompt
        inputs = graphs.prepare(
            self._engine.config,
            self._frames,
            context.tokens,
            np.tile(prompts.global_cond, (times, 1)),
            None if self._local is None else np.tile(self._local, (times, 1, 1)),
        )
        inputs["context_bias"] = context.bias
        if self._valid is not None:
            valid = np.tile(self._valid, (times, 1))
            inputs |= graphs.padding_masks(self._engine.config, valid, exclude=self._request.padding == "exclude")
        return self._engine.run("prepare", inputs)
