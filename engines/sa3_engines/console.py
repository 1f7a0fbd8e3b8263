"""What every command does alike: an error is one sentence and an exit code, and standard output may be closed, full or
of few characters.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from sa3_engines.errors import Cancelled, OutputError, Sa3Error

PIPE_CLOSED = 141


def run(command: str, work: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """The exit code of a command's work."""
    try:
        try:
            return work()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        say(command, interrupted)
        return Cancelled.exit_code
    except BrokenPipeError:
        _leave_stdout()
        return PIPE_CLOSED
    except Sa3Error as e:
        say(command, str(e))
        return e.exit_code


def say(command: str, text: str) -> None:
    note(f"{command}: {text}")


def note(text: str) -> None:
    if sys.stderr is not None:  # print would take standard output instead
        with contextlib.suppress(OSError):  # nobody listens: no reason to lose what is being made
            print(text, file=sys.stderr, flush=True)


def on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def out(text: str) -> None:
    if sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed")
    # A file's name may hold what this terminal has no character for.
    known = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(known, "backslashreplace").decode(known), flush=True)
    except BrokenPipeError:
        raise
    except OSError as e:
        _leave_stdout()
        raise OutputError(f"cannot write to standard output: {e.strerror or e}") from e


def _leave_stdout() -> None:
    """Python writes what is left for it once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
