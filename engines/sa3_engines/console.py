"""What every command does alike: an error is one sentence and an exit code, and standard output may be closed, full or
of few characters.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator

from sa3_engines.errors import Cancelled, OutputError, Sa3Error

PIPE_CLOSED = 141
THREADS = "sa3-"  # what the names of our own begin with


def run(command: str, work: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """The exit code of a command's work."""
    try:
        try:
            return work()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted(command, interrupted)
    except BrokenPipeError:
        _leave_stdout()
        return PIPE_CLOSED
    except Exception as e:
        if from_interrupt(e):
            return _interrupted(command, interrupted)
        if isinstance(e, Sa3Error):
            say(command, str(e))
            return e.exit_code
        raise


def _interrupted(command: str, text: str) -> int:
    """What still runs beside is waited for, a second or two. Python would as well, and say so in its own words where a
    second Ctrl-C ends that.
    """
    with uninterrupted(again=False):
        say(command, text)
        for thread in threading.enumerate():
            if thread.name.startswith(THREADS):
                thread.join()
    return Cancelled.exit_code


def from_interrupt(error: BaseException | None) -> bool:
    """An extension that Ctrl-C stops while it is imported says that it failed, and why only behind that."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def leaving_at_once(command: str, *, interrupted: str = "interrupted") -> Generator[None]:
    """For imports: Ctrl-C ends the process there and then. As an exception it would be lost in a callback of the import
    system now and then, and crash an extension that is half imported.
    """

    def leave(*_: object) -> None:
        say(command, interrupted)
        os._exit(Cancelled.exit_code)

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # else it is ignored, or somebody else's
        with contextlib.suppress(ValueError):  # not the main thread, and no other hears of it
            signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def ending_in_order() -> Generator[None]:
    """What a service manager or a container ends a process with does what Ctrl-C does: what is half made is cleared
    away.
    """
    usual = signal.getsignal(signal.SIGTERM)
    if usual is not signal.SIG_DFL:  # ignored, or somebody else's
        yield
        return
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread, and no other hears of it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


@contextlib.contextmanager
def uninterrupted(*, again: bool = True) -> Generator[None]:
    """For what is short and must not stop half way: Ctrl-C waits until it is done. again False: it is forgotten."""
    came: list[int] = []
    usual: dict[int, Callable[..., object]] = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(one)
        with contextlib.suppress(ValueError):  # not the main thread
            if callable(handler):
                signal.signal(one, lambda number, _: came.append(number))
                usual[one] = handler
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        if came and again:
            signal.raise_signal(came[0])


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
