"""Other implementations: absent ones say so, and a time counts only with the right number of samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sa3_bench import peers
from sa3_bench.cases import Case


def test_absent_peers_say_why():
    version, reason = peers.version(peers.UPSTREAM)
    assert version is None and "stable-audio-3" in reason
    version, reason = peers.version(peers.DIFFUSERS, "/nowhere/python")
    assert version is None and "/nowhere/python" in reason


def measured(tmp_path: Path, model: Path, answer: object, peer: peers.Peer = peers.DIFFUSERS, weights: str = "real"):
    """With a program that gives this answer in place of the peer's Python."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    program.chmod(0o755)
    case = Case(model="tiny", source=str(model), seconds=2.0, weights=weights)
    return peers.measure(peer, case, python=str(program), repeat=1, warmup_steps=1, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a program that is a script")
@pytest.mark.parametrize(("samples", "status"), [(3200, "ok"), (1600, "error")])
def test_samples_are_checked(tmp_path: Path, tiny_model: Path, samples: int, status: str):
    row = measured(tmp_path, tiny_model, {"runs": [{"generate": 1.0, "samples": samples}]})
    assert row["status"] == status


def test_what_takes_released_weights_only_is_absent_for_random_ones(tmp_path: Path, tiny_model: Path):
    row = measured(tmp_path, tiny_model, {}, peers.UPSTREAM, "random")
    assert row["status"] == "absent" and "released weights" in row["reason"]
