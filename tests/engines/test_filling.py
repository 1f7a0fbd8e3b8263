"""What the host does for engines."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sa3_engines import mapped, models
from sa3_engines.adapters import ActiveAdapter, Adapter
from sa3_engines.filling import Host

from .conftest import resident

NANO = models.locate("nano")


def adapter(host: Host) -> ActiveAdapter:
    """Adds one to every weight."""
    ones = {
        module: {"lora_A": np.ones((1, columns), np.float32), "lora_B": np.ones((rows, 1), np.float32)}
        for module, (rows, columns) in host.adaptable().items()
    }
    made = Adapter(name="ones", kind="lora", rank=1, alpha=1.0, include=None, exclude=(), modules=ones)
    return ActiveAdapter(adapter=made)


def is_read(host: Host, key: str) -> bool:
    """Whether reading a weight brings it into memory: on a busy machine it may be given back before one looks."""
    for _ in range(100):
        np.asarray(host.weights.array(key)).sum()
        if resident(host.weights.path) > 0:
            return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_originals_go_while_adapters_are_merged(tmp_path: Path):
    """All of them beside all that is made of them would be the weights twice."""
    assert NANO.folder is not None
    folder = Path(shutil.copytree(NANO.folder, tmp_path / "nano"))
    host, seen = Host(NANO.config, folder), 0
    for key, weight in host.merged([adapter(host)]):
        seen += 1
        original = np.asarray(host.weights.array(key)).reshape(weight.shape)
        np.testing.assert_allclose(weight, original + 1, rtol=1e-5, atol=1e-6)
        if seen in (1, len(host.adaptable())):
            assert is_read(host, key)
            until = time.monotonic() + 10
            while resident(host.weights.path) and time.monotonic() < until:
                time.sleep(mapped.PAUSE)
            assert resident(host.weights.path) == 0
    assert resident(host.weights.path) == 0
    assert seen == len(host.adaptable()) > 10
