"""The loop of every stage: steps that depend on their number alone, saved often, continued after any end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

SAVE_SECONDS = 120.0
LOG_EVERY = 20
State = dict[str, Any]


class Stage(Protocol):
    name: str
    steps: int

    def step(self, index: int) -> Mapping[str, float]:
        """One update. All that is random in it comes from its number."""
        ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class Interrupted(Exception):
    """The run was asked to end; what it had is saved."""


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.pt"


def save(path: Path, state: State) -> None:
    """Whole or not at all, whenever the process ends."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load(path: Path) -> State:
    return torch.load(path, map_location="cpu", weights_only=True)


def generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def half(device: str) -> bool:
    """Whether the device multiplies bfloat16 itself; a processor that imitates it takes many times longer."""
    if device != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def finished(folder: Path, name: str, steps: int) -> bool:
    """Asking for more steps than a finished run had continues it."""
    path = path_of(folder, name)
    return path.is_file() and int(load(path)["step"]) >= steps


def run(stage: Stage, folder: Path, *, quiet: bool = False, stop_at: int | None = None) -> None:
    """To the last step, from where the last run of it was saved. stop_at ends it before, as a kill would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pid").write_text(f"{os.getpid()}\n", "utf-8")
    path, start = path_of(folder, stage.name), 0
    if path.is_file():
        state = load(path)
        start = int(state["step"])
        stage.restore(state["stage"])
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        _loop(stage, path, start, stop_at or stage.steps, asked, quiet=quiet)
    finally:
        signal.signal(signal.SIGTERM, before)


def _loop(stage: Stage, path: Path, start: int, end: int, asked: list[int], *, quiet: bool) -> None:
    saved, sums, count = time.monotonic(), dict[str, float](), 0
    log = path.with_suffix(".jsonl")
    bar = tqdm(total=stage.steps, initial=start, desc=stage.name, disable=quiet, mininterval=5)
    for index in range(start, end):
        for name, value in stage.step(index).items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        bar.update()
        if (index + 1) % LOG_EVERY == 0 or index + 1 == stage.steps:
            means = {name: round(value / count, 5) for name, value in sums.items()}
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": index + 1, **means}) + "\n")
            bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
            sums, count = {}, 0
        if asked or time.monotonic() - saved > SAVE_SECONDS or index + 1 == end:
            save(path, {"step": index + 1, "finished": index + 1 == stage.steps, "stage": stage.state()})
            saved = time.monotonic()
        if asked:
            bar.close()
            raise Interrupted(f"{stage.name} was asked to end after step {index + 1} of {stage.steps}")
    bar.close()


def rate(index: int, steps: int, warm: int = 100, fall: float = 0.4) -> float:
    """Of the learning rate: a ramp, a plateau, and a straight line to zero over the last share of the steps."""
    left = (steps - index) / max(1.0, fall * steps)
    return min(1.0, (index + 1) / max(1, min(warm, steps // 4)), left)
