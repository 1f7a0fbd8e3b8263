"""Other implementations of the model, measured the same way where they are installed, and reported absent elsewhere.

Each has a script that imports the peer alone, so that it can run under another interpreter: peers pin what they need.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa3_bench.cases import PROMPT, Case
from sa3_bench.process import Failed, last_json

ERROR, OK, ABSENT = "error", "ok", "absent"
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Peer:
    name: str
    script: str
    probe: str  # prints the version where the peer can be used, else says why not and fails
    about: str
    random: bool  # whether it can be given random weights


UPSTREAM = Peer(
    name="upstream",
    script="upstream_script.py",
    # Our own package goes by the same import name: the distributions tell which it is.
    probe="""
from importlib.metadata import PackageNotFoundError, version
try:
    found = version("stable-audio-3")
except PackageNotFoundError:
    raise SystemExit("stable-audio-3 is not installed in this environment, nor is it on the package index; "
                     "--upstream-python names the Python of one that has it")
try:
    version("sa3-runtime")
except PackageNotFoundError:
    print(found)
else:
    raise SystemExit("sa3-runtime and stable-audio-3 share this environment and the name stable_audio_3; "
                     "--upstream-python names the Python of one that has upstream alone")
""",
    about="Stability-AI/stable-audio-3, its Python API as published",
    random=False,
)
DIFFUSERS = Peer(
    name="diffusers",
    script="diffusers_script.py",
    probe="""
try:
    import diffusers
except ImportError:
    raise SystemExit("diffusers is not installed; pip install diffusers")
try:
    from diffusers import StableAudio3Pipeline
except ImportError:
    raise SystemExit(f"diffusers {diffusers.__version__} has no StableAudio3Pipeline; pip install -U diffusers")
print(diffusers.__version__)
""",
    about="diffusers' StableAudio3Pipeline in fp32, built from its own classes with random weights (none are published "
    "in its format). Its decoder knows the sliding window only, so for small models that stage is another computation.",
    random=True,
)
PEERS = (UPSTREAM, DIFFUSERS)


def version(peer: Peer, python: str = sys.executable) -> tuple[str | None, str]:
    """The installed version, or None and why it cannot be used."""
    try:
        done = subprocess.run(
            [python, "-c", peer.probe], capture_output=True, text=True, check=False, timeout=300, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return None, f"{python}: {e}"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    said = done.stderr.strip().splitlines()
    return None, said[-1] if said else f"exit code {done.returncode}"


def measure(
    peer: Peer, case: Case, *, python: str = sys.executable, repeat: int, warmup_steps: int | None, timeout: float
) -> dict[str, Any]:
    """A row like our own cases have."""
    if case.weights == "random" and not peer.random:
        return {"status": ABSENT, "reason": "its API takes released weights only, and there are none here"}
    wanted: Mapping[str, Any] = {
        "model": case.model,
        "prompt": PROMPT,
        "seconds": case.seconds,
        "steps": case.steps,
        "warmup_steps": warmup_steps or case.steps,
        "batch": case.batch,
        "seed": case.seed,
        "padding": case.padding,
        "threads": case.threads,
        "device": case.device,
        "repeat": repeat,
        "config": _shape(case),
    }
    try:
        answer = last_json([python, str(HERE / peer.script), json.dumps(wanted)], timeout)
    except Failed as e:
        return {"status": ERROR, "reason": str(e)}
    made, expected = {run["samples"] for run in answer["runs"]}, int(case.seconds * wanted["config"]["rate"])
    if made != {expected}:
        return {"status": ERROR, "reason": f"it made {sorted(made)} samples where {expected} were asked for"}
    return {"status": OK, "result": answer}


def _shape(case: Case) -> dict[str, Any]:
    """What a peer needs to build a model of the same size."""
    from dataclasses import asdict

    from sa3_engines import models

    config = models.locate(case.opened).config
    assert config.dit is not None and config.text is not None
    return {
        "dit": asdict(config.dit),
        "text": asdict(config.text),
        "decoder": asdict(config.autoencoder.decoder),
        "patch": config.autoencoder.patch,
        "rate": config.sample_rate,
        "channels": config.autoencoder.channels,
        "seconds_max": config.seconds_max,
    }
