from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sa3_engines import bundle
from sa3_engines.bundle import Bundle, Graph, Origin, Profile, Tier


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """A bundle in miniature: its manifest is whole, its files are not what they say."""
    (tmp_path / "text").mkdir()
    (tmp_path / "step.onnx").write_bytes(b"graph" * 500_000)
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 500_000)
    (tmp_path / "model_config.json").write_text("{}")
    (tmp_path / "text" / "config.json").write_text("{}")
    files = bundle.describe(tmp_path, ["step.onnx", "model_config.json", "model.safetensors", "text/config.json"])
    graph = Graph(
        file="step.onnx",
        files=("step.onnx",),
        cosine=0.9999999,
        snr_db=120.5,
        relative_error=4e-7,
        sizes=("batch 1, frames 13",),
        more={"velocity_spread_change": 1e-4},
    )
    exact = Tier(type="fp32", instructions=(), exact=(), graphs={"step": graph}, seconds={"step": 1.5})
    high = replace(exact, type="bf16", instructions=("avx512_bf16",), seconds={"step": 0.7})
    fast = replace(exact, type="int8", exact=("norm",), seconds={"step": 0.3})
    made = Bundle(
        model="small-music",
        target="onnx",
        backends=("onnx",),
        profile=Profile(min_seconds=0, opt_seconds=30, max_seconds=120),
        sampling={"diffusion_objective": "rf_denoiser"},
        measured_on="a machine",
        source=Origin(model="small-music", repo="a/b", revision="0" * 40, digest="d"),
        built_with={"torch": "2.13"},
        tiers={"exact": exact, "high": high, "fast": fast},
        files=files,
        licence="free",
        recipe="r",
    )
    bundle.write(tmp_path, made)
    assert bundle.read(tmp_path, deep=True) == made
    return tmp_path


def resident(path: Path) -> int:
    """KiB of a file that this process holds. Linux only."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.endswith(str(path)):
            ours = True
        elif ours and line.startswith("Rss:"):
            total, ours = total + int(line.split()[1]), False
    return total
