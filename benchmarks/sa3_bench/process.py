"""Another program run to its end: the JSON object it prints as its last line, or why there is none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any


class Failed(Exception):
    """Why a process gave no measurement, fit to show."""


def last_json(command: Sequence[str] | str, timeout: float) -> dict[str, Any]:
    """A text is given to the shell, as it stands. Nothing of the program is left running."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                shell=isinstance(command, str),
                start_new_session=True,
            )
        except OSError as e:
            raise Failed(f"{command[0]} cannot be started: {e.strerror}") from e
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise Failed(f"no answer within {timeout:g} s") from e
        finally:
            _end(child)
        said, errors = _lines(out), _lines(err)
    if code != 0:
        raise Failed(_ending(code, errors))
    try:
        answer = json.loads(said[-1])
    except (IndexError, ValueError) as e:
        raise Failed("it printed no JSON object as its last line") from e
    if not isinstance(answer, dict):
        raise Failed("what it printed last is no JSON object")
    return answer


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _ending(code: int, errors: list[str]) -> str:
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return errors[-1].removeprefix("sa3-bench: ")[:400] if errors else f"exit code {code}"
