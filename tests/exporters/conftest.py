"""Both golden miniatures, exported side by side: most of the time goes into torch.export.

They are kept between runs; what is no longer current, by the exporter's own judgement, is made again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

TINY = ("tiny-small", "tiny-medium")


@pytest.fixture(scope="session")
def bundles(
    golden: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    kept = request.config.pluginmanager.hasplugin("cacheprovider")
    cache = request.config.cache
    out = cache.mkdir(f"bundles-torch{version('torch')}") if kept and cache else tmp_path_factory.mktemp("bundles")
    command = [sys.executable, "-W", "error", "-m", "sa3_exporters.cli", "--target", "onnx"]
    command += ["--precision", "exact,fast"]  # auto would leave out what is no faster
    started = {
        name: subprocess.Popen(
            [*command, "--model", str(golden / name), "--out", str(out / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for name in TINY
    }
    for name, process in started.items():
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        assert "already current" in stdout or ("cosine" in stdout and "comparing decode" in stderr)
        assert "warning" not in stderr.lower(), (name, stderr)
    return {name: out / name for name in TINY}
