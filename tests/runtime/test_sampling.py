"""The samplers on velocities whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sa3_engines.errors import InvalidRequest
from sa3_runtime import sampling, schedule

Array = np.ndarray


def last(name: str, velocity: sampling.Velocity, x: Array, levels: Array) -> Array:
    draw = np.random.default_rng(0).standard_normal
    return list(sampling.sample(name, velocity, x, levels, lambda: draw(x.shape, np.float32)))[-1]


@pytest.mark.parametrize("name", sorted(sampling.SAMPLERS))
def test_a_straight_path_ends_at_the_data(name: str):
    """Where the velocity is noise - data, every sampler must come out at the data."""
    data = np.random.default_rng(1).standard_normal((3, 4, 10)).astype(np.float32)
    x = np.random.default_rng(2).standard_normal(data.shape).astype(np.float32)

    def velocity(state: Array, t: Array) -> Array:
        # pingpong takes fresh noise at every step, so its path is another one each time.
        return (state - data) / t[:, None, None] if name == "pingpong" else x - data

    got = last(name, velocity, x, schedule.build(8, 1.0, None, np.array([9, 9, 9])))
    np.testing.assert_allclose(got, data, atol=1e-4)


@pytest.mark.parametrize("name", sorted(sampling.SAMPLERS))
def test_an_item_is_what_it_is_alone(name: str):
    """Also for rk4, which the reference breaks for batches."""

    def velocity(x: Array, t: Array) -> Array:
        return np.sin(x) * t[:, None, None]

    levels = schedule.build(6, 1.0, {"type": "logsnr"}, np.array([40, 3000]))
    x = np.random.default_rng(3).standard_normal((2, 4, 10)).astype(np.float32)
    zero = np.zeros((1, 4, 10), np.float32)
    both = list(sampling.sample(name, velocity, x, levels, lambda: np.repeat(zero, 2, axis=0)))[-1]
    alone = list(sampling.sample(name, velocity, x[1:], levels[1:], lambda: zero))[-1]
    np.testing.assert_allclose(both[1:], alone, rtol=1e-6, atol=1e-6)


def test_rk4_is_of_fourth_order():
    """dx/dt = x from t=1 to 0 shrinks by e; euler's error falls as the step, rk4's as its fourth power."""

    def error(name: str, steps: int) -> float:
        x = np.ones((1, 1, 1))
        levels = np.linspace(1, 0, steps + 1)[None]
        return abs(last(name, lambda y, t: y, x, levels).item() - np.exp(-1))

    assert error("euler", 20) / error("euler", 40) == pytest.approx(2, rel=0.1)
    assert error("rk4", 2) / error("rk4", 4) == pytest.approx(16, rel=0.35)


@pytest.mark.parametrize(("said", "meant"), [("ping_pong", "pingpong"), ("Euler", "euler"), ("RK4", "rk4")])
def test_spellings(said: str, meant: str):
    assert sampling.find(said) == meant


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde", ""])
def test_other_tools_samplers_are_refused(name: str):
    with pytest.raises(InvalidRequest, match="pingpong, euler, rk4, dpmpp"):
        sampling.find(name)
