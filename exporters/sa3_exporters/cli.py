"""`sa3-export`: here it begins, and everything else is imported where Ctrl-C is answered already."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sa3_engines import console
from sa3_exporters import INTERRUPTED, NAME


def main(argv: Sequence[str] | None = None) -> int:
    with console.leaving_at_once(NAME, interrupted=INTERRUPTED):
        from sa3_exporters import command
    return console.run(NAME, lambda: command.run(argv), interrupted=INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
