"""Whether a model makes what it is asked for: prompts it never trained on, their sounds measured."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sa3_engines.errors import BadOutput
from sa3_runtime import Pipeline, Request, audio
from sa3_training import corpus, fidelity, measures
from sa3_training.measures import Samples
from sa3_training.truths import Truth, cents
from sa3_training.wordings import PAIRS, WORDINGS, Pair

HELD = 140  # prompts from the corpus' held-out half, besides those written by hand
T = TypeVar("T")
PROMPT = "all of the prompt"


@dataclass(frozen=True)
class Prompt:
    """One clip to make, and what must be true of it."""

    text: str
    seconds: float
    seed: int
    origin: str  # held: the grammar's words for a new combination; written: other words
    truth: Truth


@dataclass(frozen=True)
class Outcome:
    prompt: str
    seconds: float
    seed: int
    origin: str
    results: Mapping[str, bool]
    error: str = ""

    @property
    def passed(self) -> bool:
        return all(self.results.values())


@dataclass
class Tally:
    passed: int = 0
    of: int = 0

    def add(self, passed: bool) -> None:
        self.passed += int(passed)  # what numpy compared is no number of Python's
        self.of += 1

    @property
    def rate(self) -> float:
        return self.passed / self.of if self.of else 0.0


@dataclass
class Report:
    model: str
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    exchanged: list[Outcome] = field(default_factory=list[Outcome])  # each judged by another prompt's truth
    pairs: list[Outcome] = field(default_factory=list[Outcome])
    fidelity: dict[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])

    def summary(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "model": self.model,
            "properties": {k: asdict(v) for k, v in tallies([*self.outcomes, *self.pairs]).items()},
            "exchanged": {k: asdict(v) for k, v in tallies(self.exchanged).items()},
            "fidelity": self.fidelity,
            "prompts": [asdict(o) for o in self.outcomes],
            "pairs": [asdict(o) for o in self.pairs],
        }


def prompts(limit: int | None = None) -> list[Prompt]:
    """The whole list, or `limit` spread evenly over it."""
    held = [corpus.plan(seed, "held") for seed in range(HELD)]
    every = [Prompt(p.caption, p.seconds, i, "held", p.truth) for i, p in enumerate(held)]
    every += [Prompt(w.prompt, w.seconds, i, "written", Truth(w.checks)) for i, w in enumerate(WORDINGS)]
    return spread(every, limit)


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def tallies(outcomes: Iterable[Outcome]) -> dict[str, Tally]:
    """Passes by property, then whole prompts by origin, then all."""
    found: dict[str, Tally] = {}
    whole: dict[str, Tally] = {}
    for outcome in outcomes:
        for name, passed in outcome.results.items():
            found.setdefault(name, Tally()).add(passed)
        for name in (f"{PROMPT} ({outcome.origin})", PROMPT):
            whole.setdefault(name, Tally()).add(outcome.passed)
    return dict(sorted(found.items())) | dict(sorted(whole.items(), reverse=True))


def judge(sound: Samples, prompt: Prompt) -> Outcome:
    return Outcome(prompt.text, prompt.seconds, prompt.seed, prompt.origin, prompt.truth.judge(sound))


def _failed(prompt: Prompt, error: Exception) -> Outcome:
    results = {check.property: False for check in prompt.truth.checks}
    return Outcome(prompt.text, prompt.seconds, prompt.seed, prompt.origin, results, str(error))


@dataclass(frozen=True)
class Maker:
    """A model with the settings everything is made with."""

    pipeline: Pipeline
    steps: int | None = None  # the model's own
    cfg_scale: float | None = None
    folder: Path | None = None  # where clips are kept

    def make(self, prompt: str, seconds: float, seed: int) -> Samples:
        request = Request(prompt=prompt, seconds=seconds, seed=seed, steps=self.steps, cfg_scale=self.cfg_scale)
        sound = self.pipeline.generate(request).sounds[0]
        if self.folder is not None:
            name = re.sub(r"[^\w#-]+", "_", prompt)[:80]
            audio.write(self.folder / f"{name}.{seed}.wav", sound)
        return sound.samples


def _more(larger: float, smaller: float, ratio: float) -> bool:
    return smaller > 0 and larger > smaller * ratio


def _seconds_of(audio: Samples) -> float:
    start, end = measures.active_span(audio)
    return end - start


COMPARISONS: Mapping[str, Callable[[Samples, Samples], bool]] = {
    "loud or quiet": lambda a, b: _more(measures.rms(a), measures.rms(b), 2),
    "bright or dark": lambda a, b: _more(measures.centroid(a), measures.centroid(b), 1.15),
    "long or short": lambda a, b: _more(_seconds_of(a), _seconds_of(b), 1.5),
    "left or right": lambda a, b: measures.pan_db(a) - measures.pan_db(b) > 12,
    "high or low": lambda a, b: 1000 < cents(measures.fundamental(a), measures.fundamental(b)) < 10000,
    "fast or slow": lambda a, b: _more(measures.tempo(a), measures.tempo(b), 1.5),
}


def compare(maker: Maker, pair: Pair, seed: int) -> Outcome:
    """Both prompts from one seed: only the words differ."""
    try:
        passed = COMPARISONS[pair.property](
            maker.make(pair.more, pair.seconds, seed), maker.make(pair.less, pair.seconds, seed)
        )
    except BadOutput as e:
        return Outcome(f"{pair.more} / {pair.less}", pair.seconds, seed, "pair", {pair.property: False}, str(e))
    return Outcome(f"{pair.more} / {pair.less}", pair.seconds, seed, "pair", {pair.property: bool(passed)})


def measure(
    maker: Maker, model: str, limit: int | None = None, tick: Callable[[int, int], None] | None = None
) -> Report:
    """Everything about one model. Exchanged results say what a model that ignores its prompt would get."""
    report = Report(model)
    every, pairs = prompts(limit), spread(PAIRS, None if limit is None else max(1, limit // 5))
    total = len(every) + len(pairs)
    for index, prompt in enumerate(every):
        other = every[(index + len(every) // 2) % len(every)]
        try:
            made = maker.make(prompt.text, prompt.seconds, prompt.seed)
        except BadOutput as e:
            report.outcomes.append(_failed(prompt, e))
            report.exchanged.append(_failed(other, e))
        else:
            report.outcomes.append(judge(made, prompt))
            report.exchanged.append(judge(made, other))
        if tick is not None:
            tick(index + 1, total)
    for index, pair in enumerate(pairs):
        report.pairs.append(compare(maker, pair, index))
        if tick is not None:
            tick(len(every) + index + 1, total)
    few = 24 if limit is None else max(2, min(24, limit // 8))
    report.fidelity["autoencoder"] = fidelity.round_trip(maker.pipeline, few)
    examples = fidelity.steady(max(2, few // 2))
    report.fidelity["inpainting"] = fidelity.inpainting(maker.pipeline, examples)
    report.fidelity["audio to audio"] = fidelity.audio_to_audio(maker.pipeline, examples)
    return report
