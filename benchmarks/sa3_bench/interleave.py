"""Two programs in turn, A B B A, so that what slows the machine slows both: their lines go into two files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from sa3_bench.process import Failed, last_json
from sa3_engines.errors import InvalidRequest, Sa3Error


def interleave(
    commands: tuple[str, str], repeat: int, folder: Path, timeout: float, tell: Callable[[str], None]
) -> tuple[Path, Path]:
    """Each program prints what `sa3-bench once` prints. Every run is a fresh process with its own warm-up."""
    if repeat < 1:
        raise InvalidRequest(f"--repeat {repeat}; it must be 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "A.json", folder / "B.json"
    for file in files:
        file.write_text("")
    for turn in range(repeat):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            tell(f"pair {turn + 1} of {repeat}, {'AB'[which]}")
            begun = time.time()
            try:
                answer = last_json(commands[which], timeout)
            except Failed as e:
                raise Sa3Error(f"{'AB'[which]} ({commands[which]}): {e}") from e
            for run in answer.get("runs", []):
                run.setdefault("started", begun)
            with files[which].open("a") as file:
                file.write(json.dumps(answer) + "\n")
    return files
