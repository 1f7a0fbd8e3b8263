"""The wheel in an environment of its own, as somebody installs it. Takes packages from the index, like any install."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parent.parent
MOST_BYTES, MOST_SECONDS = 400e6, 5.0  # of the whole environment, and of a whole command


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    run(folder / "env/bin/python", "-m", "pip", "install", "--quiet", wheel)
    return folder / "env"


@pytest.mark.network
def test_it_makes_a_sound_without_torch(installed: Path, tmp_path: Path):
    run(installed / "bin/python", "-c", "import importlib.util as i; assert i.find_spec('torch') is None")
    took: list[float] = []
    for _ in range(2):  # the first writes bytecode
        began = time.perf_counter()
        run(installed / "bin/sa3", "generate", "-p", "C major on a piano", "--duration", 5, "-o", tmp_path / "a.wav")
        took.append(time.perf_counter() - began)
    assert soundfile.info(tmp_path / "a.wav").duration == 5.0
    assert min(took) < MOST_SECONDS


@pytest.mark.network
def test_it_is_small(installed: Path):
    files = [path for path in installed.rglob("*") if path.is_file() and not path.is_symlink()]
    assert 50e6 < sum(path.stat().st_size for path in files) < MOST_BYTES
