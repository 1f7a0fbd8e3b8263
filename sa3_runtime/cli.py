"""The command `sa3`: here it begins, and everything else is imported where Ctrl-C is answered already."""

from __future__ import annotations

from collections.abc import Sequence

from sa3_engines import console

NAME = "sa3"


def main(argv: Sequence[str] | None = None) -> int:
    with console.leaving_at_once(NAME):
        from sa3_runtime.command import answers
    return console.run(NAME, lambda: answers.run(argv))
