"""What makes a clip: what to open, what to ask of it, and the files it is given, as flags or a record name them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa3_engines import models, selection, tiers
from sa3_engines.engine import Options
from sa3_engines.errors import BackendUnavailable, InvalidRequest
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.request import Request

Record = Mapping[str, Any]
CHOICES = ("backend", "device", "precision")  # which --backend auto makes anew


class Given(str):
    """What a flag names, files and models included: those are seen from the working folder, never from a record's."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    path: Path
    sha256: str
    written: str  # the path as the flag or the record has it


@dataclass(frozen=True, kw_only=True)
class AdapterFile(InputFile):
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What to open, and how."""

    model: str = "nano"
    written: str | None = None  # the model as the record has it, where that is not where it was found
    revision: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    memory: str = "normal"
    adapters: Sequence[AdapterFile] = ()
    recorded: Sequence[str] = ()  # which of CHOICES a record made, and no flag

    def checked(self) -> Opening:
        """Refuses what can be told without the model, which may have to be downloaded."""
        Options(device=self.device, precision=self.precision, threads=self.threads, memory=self.memory)
        tiers.ask(self.precision)
        if self.backend != "auto":
            try:
                selection.load(self.backend)
            except InvalidRequest as e:
                if "backend" not in self.recorded:
                    raise
                raise InvalidRequest(f"{e}; {self._recorded()}") from e
        return self

    @contextmanager
    def explained(self) -> Generator[None]:
        """Adds to what cannot be run here that a record wants it so: nobody may have typed it."""
        try:
            yield
        except BackendUnavailable as e:
            if not self.recorded:
                raise
            raise BackendUnavailable(f"{e}; {self._recorded()}") from e

    def _recorded(self) -> str:
        chosen = ", ".join(f"{name} {getattr(self, name)}" for name in self.recorded)
        return f"the record chose {chosen}, and --backend auto runs it with what is here"

    def open(self, needs: Collection[str] = ()) -> Pipeline:
        pipeline = Pipeline.load(
            self.model,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            memory=self.memory,
            revision=self.revision,
            needs=needs,
        )
        try:
            for one in self.adapters:
                pipeline.load_adapter(one.path, one.strength)
        except BaseException:
            pipeline.close()
            raise
        return pipeline


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to open, what to ask of it, and which item of the batch is wanted; None: all."""

    opening: Opening
    request: Request
    inputs: Mapping[str, InputFile] = field(default_factory=dict[str, InputFile])
    item: int | None = None


def as_folder(path: str) -> str:
    """With a dot at its start it is read as a folder, whatever models are called."""
    return path if Path(path).is_absolute() or path.startswith(".") else f"./{path}"


def may_be_folder(model: str) -> bool:
    """No name that means a model wherever it is said, and no home, which is where it is."""
    known = model == "nano" or model in models.RELEASED or model in models.ALIASES
    return not known and not model.startswith(("random:", "~"))


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise InvalidRequest(f"cannot read {os.fspath(path)!r}: {e.strerror or e}") from e
