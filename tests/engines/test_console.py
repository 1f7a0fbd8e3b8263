"""Ctrl-C, in processes of their own: at any time it is one line and 130."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIT = "signal.raise_signal(signal.SIGINT)"
RUN = """
import signal, sys
from sa3_engines import console
{before}
def work():
    {body}
    return 0
sys.exit(console.run("try", work))
"""


def ended(body: str, before: str = "") -> tuple[int, str, str]:
    code = RUN.format(body=body, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def imports(what: str) -> str:
    return f"""
    with console.leaving_at_once("try"):
        try:
            {what}
        except BaseException:
            print("an exception")
    print("after")"""


def test_while_modules_are_imported_the_process_ends_there():
    assert ended(imports(HIT)) == (130, "", "try: interrupted\n")
    assert ended(imports("pass") + f"\n    {HIT}") == (130, "after\n", "try: interrupted\n")


@pytest.mark.parametrize("hits", [1, 3])
def test_what_runs_beside_ends_before_the_process_does(hits: int):
    """Ctrl-C again, while that is waited for, changes nothing."""
    before = """import threading, time
def beside():
    for _ in range(HITS):
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.2)
    print("done")
def watched():
    threading.Thread(target=beside, name="sa3-try").start()
    time.sleep(60)"""
    assert ended("watched()", before.replace("HITS", str(hits))) == (130, "done\n", "try: interrupted\n")


def test_whoever_is_not_to_hear_of_it_does_not():
    """A shell starts what runs in the background with Ctrl-C ignored."""
    assert ended(imports(HIT), "signal.signal(signal.SIGINT, signal.SIG_IGN)") == (0, "after\n", "")
    own = "signal.signal(signal.SIGINT, lambda *_: print('own'))"
    assert ended(imports(HIT), own) == (0, "own\nafter\n", "")


def test_other_threads_import_as_well():
    body = "import threading; t = threading.Thread(target=imports); t.start(); t.join()"
    before = "def imports():\n  with console.leaving_at_once('try'): print('in')"
    assert ended(body, before) == (0, "in\n", "")


def test_an_extension_that_was_interrupted_is_an_interrupt():
    """onnxruntime says `ImportError: initialization failed`, and why only behind that."""
    broken = f"""
    try:
        {HIT}
    except KeyboardInterrupt as e:
        raise ImportError("initialization failed") from e"""
    assert ended(broken) == (130, "", "try: interrupted\n")
    code, _, err = ended("raise ImportError('other')")
    assert code == 1 and err.endswith("ImportError: other\n")


@pytest.mark.parametrize("module", ["sa3_runtime.cli", "stable_audio_3.cli", "sa3_exporters.cli", "sa3_bench.cli"])
def test_commands_begin_with_next_to_nothing(module: str):
    """What is imported before `main` is called is imported where Ctrl-C is a traceback."""
    heavy = {"argparse", "json", "pathlib", "dataclasses", "importlib.metadata", "numpy"}
    code = f"import sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
