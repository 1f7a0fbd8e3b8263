"""What is measured. A case is one model, length, batch, engine and precision; this file says what is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sa3_engines.errors import InvalidRequest

if TYPE_CHECKING:
    from sa3_engines.models import Source
    from sa3_runtime.request import Request

PROMPT = "lo-fi boom bap with warm electric piano, vinyl crackle and a slow walking bass, 84 BPM"
DURATIONS = (5.0, 30.0, 120.0, 380.0)  # the rows of the published table
STEPS, SEED, PADDING = 8, 0, 6.0

TIMED = """\
Timed: one warm request, from the prompt as a string to finished audio in host memory (float32), with everything
between: tokenizer, text encoder, all sampling steps, decoder, the clamp to full scale. The model is loaded and has
made one clip of the same size before, untimed.
Not timed: loading, downloads, writing files. Load times stand on their own: cold is a fresh process with its imports
and the model's files out of the page cache where the system allows that, warm is a second load in that process, until
every graph that a clip needs is open. Engines that open graphs on first use do so in the untimed run, so the time from
start to first clip stands beside the cold load.
First audio: until the first window of samples is final, of a decoder that works in windows.
Every run has the same prompt and seed. A run whose samples are not as many as were asked for, or that fails a
stage's checks (NaN, silence, a constant), is an error and has no time.
The model makes {padding:g} s more than is asked for, as the reference does, and only what is heard is decoded.
Memory is the whole process: its peak resident set, and the device's allocated peak where there is a device."""


@dataclass(frozen=True, kw_only=True)
class Case:
    model: str  # by the name people know
    seconds: float
    weights: str = "real"  # or random
    source: str = ""  # what is opened; the model itself when empty
    batch: int = 1
    backend: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    steps: int = STEPS
    seed: int = SEED
    padding: float = PADDING
    chunked: bool = True

    @property
    def opened(self) -> str:
        return self.source or self.model

    @property
    def engine(self) -> str:
        """The column a case belongs to."""
        device = "" if self.device == "auto" else f":{self.device}"
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.backend}{device} {self.precision}{threads}"

    @property
    def work(self) -> str:
        """What is made, whoever makes it: cases that share this may be compared."""
        parts = [self.model, self.weights, f"{self.seconds:g} s", f"batch {self.batch}", f"{self.steps} steps"]
        parts += [f"seed {self.seed}", f"padding {self.padding:g} s"]
        return ", ".join(parts)

    @property
    def key(self) -> str:
        return f"{self.work}, {self.engine}{'' if self.chunked else ', decoded whole'}"

    def request(self, steps: int | None = None) -> Request:
        from sa3_runtime.request import Request

        return Request(
            prompt=PROMPT,
            seconds=self.seconds,
            batch_size=self.batch,
            seed=self.seed,
            steps=steps or self.steps,
            cfg_scale=1.0,
            padding_seconds=self.padding,
            chunked_decode=self.chunked,
            truncate_prompt=True,  # miniature models read fewer tokens
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(values: Mapping[str, Any]) -> Case:
    known = {field.name for field in fields(Case)}
    return Case(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as it was asked for, and what stands in for it."""

    name: str
    weights: str
    source: str
    longest: float  # seconds


def kind_of_weights(source: Source) -> str:
    return "real" if source.trained else "random"


def resolve(name: str, weights: str = "auto") -> Model:
    """weights: auto takes real ones that are already here and else random ones; real may download."""
    from sa3_engines import models

    if weights not in ("auto", "real", "random"):
        raise InvalidRequest(f"weights {weights!r}; choose from auto, real, random")
    source = name
    if models.ALIASES.get(name, name) in models.RELEASED and not (
        weights == "real" or (weights == "auto" and _here(name))
    ):
        source = f"random:{name}"
    located = models.locate(source)
    if located.config.dit is None:
        raise InvalidRequest(f"{name} is an autoencoder alone; a case makes sound from a prompt")
    shown = name.removeprefix("random:") if located.seed is not None else located.name
    return Model(
        name=shown,
        weights=kind_of_weights(located),
        source=source,
        longest=located.config.longest_seconds,
    )


def _here(name: str) -> bool:
    from sa3_engines import models
    from sa3_runtime.command import catalogue

    wanted = models.ALIASES.get(name, name)
    return any(entry.here for entry in catalogue.entries() if entry.name == wanted)


def lengths(model: Model, durations: Sequence[float]) -> list[float]:
    """Those the model makes."""
    return sorted({seconds for seconds in durations if seconds <= model.longest})
