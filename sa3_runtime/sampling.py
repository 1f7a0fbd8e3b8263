"""The four samplers, over any velocity function. denoised = x - t * velocity; t = 1 is noise, 0 is data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sa3_engines.errors import InvalidRequest

Array = np.ndarray
Velocity = Callable[[Array, Array], Array]  # x (items, channels, frames), t (items,)
Draw = Callable[[], Array]  # fresh noise of x's shape
Sampler = Callable[[Velocity, Array, Array, Draw], Iterator[Array]]
F = np.float32


def sample(sampler: str, velocity: Velocity, x: Array, levels: Array, draw: Draw) -> Iterator[Array]:
    """Yields the state after every step; levels (items, steps + 1), every item on its own."""
    return SAMPLERS[find(sampler)](velocity, x, levels, draw)


def find(name: object) -> str:
    """A sampler's own name. `ping_pong` is a spelling people use; other tools' samplers do not exist here."""
    plain = str(name).lower().replace("_", "").replace("-", "")
    if plain not in SAMPLERS:
        raise InvalidRequest(f"no sampler {name!r}; choose from {', '.join(SAMPLERS)}")
    return plain


def default_for(objective: str) -> str:
    return "pingpong" if objective == "rf_denoiser" else "euler"


def _over(values: Array) -> Array:
    """(items,) beside (items, channels, frames)."""
    return values[:, None, None]


def _steps(levels: Array) -> Iterator[tuple[Array, Array]]:
    for index in range(levels.shape[1] - 1):
        yield levels[:, index], levels[:, index + 1]


def _euler(velocity: Velocity, x: Array, levels: Array, draw: Draw) -> Iterator[Array]:
    for a, c in _steps(levels):
        x = x + _over(c - a) * velocity(x, a)
        yield x


def _pingpong(velocity: Velocity, x: Array, levels: Array, draw: Draw) -> Iterator[Array]:
    for a, c in _steps(levels):
        denoised = x - _over(a) * velocity(x, a)
        # Drawn on the last step too, where c is 0: what is drawn after it must not move.
        x = _over(F(1) - c) * denoised + _over(c) * draw()
        yield x


def _rk4(velocity: Velocity, x: Array, levels: Array, draw: Draw) -> Iterator[Array]:
    for a, c in _steps(levels):
        h = c - a
        half, middle = _over(h / F(2)), a + h / F(2)
        k1 = velocity(x, a)
        k2 = velocity(x + half * k1, middle)
        k3 = velocity(x + half * k2, middle)
        k4 = velocity(x + _over(h) * k3, np.maximum(c, F(1e-5)))
        x = x + _over(h / F(6)) * (k1 + F(2) * k2 + F(2) * k3 + k4)
        yield x


def _dpmpp(velocity: Velocity, x: Array, levels: Array, draw: Draw) -> Iterator[Array]:
    """DPM-Solver++ (2M) for the straight path."""
    tiny = F(1e-10)
    before: tuple[Array, Array] | None = None  # denoised and level of the step before

    def log_snr(t: Array) -> Array:
        return np.log(np.maximum(F(1) - t, tiny) / np.maximum(t, tiny))

    for a, c in _steps(levels):
        denoised = x - _over(a) * velocity(x, a)
        target = denoised
        if before is not None and np.any(c != 0):
            last, a_last = before
            ratio = (log_snr(a) - log_snr(a_last)) / (log_snr(c) - log_snr(a))
            half = _over(F(1) / (F(2) * ratio))
            target = (F(1) + half) * denoised - half * last
        k = (c - a) / (np.maximum(F(1) - c, tiny) * np.maximum(a, tiny))
        x = _over(c / np.maximum(a, tiny)) * x - _over((F(1) - c) * k) * target
        before = denoised, a
        yield x


SAMPLERS: Mapping[str, Sampler] = {"pingpong": _pingpong, "euler": _euler, "rk4": _rk4, "dpmpp": _dpmpp}
