"""The graphs of one tier before the gate. One that misses its floor stays exact, where the tier can do without it.

The transformer is what a tier is for: where that misses, the tier does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from sa3_engines.engine import CODEC
from sa3_engines.errors import ParityError
from sa3_engines.tiers import EXACT
from sa3_exporters import targets
from sa3_exporters.parity import Gate, Parity
from sa3_exporters.targets import Target, Tier, Work
from sa3_exporters.watch import Watch

TRANSFORMER = ("prepare", "step")

Files = Mapping[str, Sequence[str]]  # of every graph, the one to open first


class Judge:
    def __init__(self, target: Target, tier: Tier, work: Work, gate: Gate, watch: Watch, files: Files) -> None:
        """files: what the tier was converted to."""
        self._target, self._tier, self._work, self._gate, self._watch = target, tier, work, gate, watch
        self.files = dict(files)  # those that stand in the end
        self._kept: list[str] = []

    def judge(self, graph: str) -> Parity:
        """With an engine of its own, so that no more than one graph is in memory beside the reference."""
        try:
            return self._compared(graph, self.files)
        except ParityError as e:
            if self._tier.name == EXACT or graph in TRANSFORMER:
                raise
            self._keep_exact(graph, e)
            return self._compared(graph, self.files)

    def judge_round_trip(self) -> tuple[Parity, Sequence[str]]:
        """The codec there and back, and the halves that stay exact because of it: the sum of both does not tell which
        of them errs, so each is tried with an exact other.
        """
        try:
            return self._compared("round trip", self.files), ()
        except ParityError as e:
            if self._tier.name == EXACT:
                raise
            halves = [graph for graph in CODEC if not self._is_exact(graph)]
            mended = self._tried([(graph,) for graph in halves]) or self._tried([halves])
            if mended is None:
                raise
            for graph in mended[1]:
                self._keep_exact(graph, e)
            return mended

    def check_any(self) -> None:
        """A tier whose graphs all had to stay exact would be one in name alone."""
        if self._kept and all(self._is_exact(graph) for graph in self.files):
            raise ParityError(f"{' and '.join(self._kept)} would stay exact, and so nothing would be of the tier")

    def _tried(self, mends: Sequence[Sequence[str]]) -> tuple[Parity, Sequence[str]] | None:
        """The mend that leaves least wrong, of those that keep the floor."""
        keeping: list[tuple[Parity, Sequence[str]]] = []
        for mend in mends:
            with contextlib.suppress(ParityError):
                files = self.files | {graph: self._exact(graph) for graph in mend}
                keeping.append((self._compared("round trip", files), mend))
        return max(keeping, key=lambda one: one[0].snr_db, default=None)

    def _compared(self, what: str, files: Files) -> Parity:
        engine = self._target.open(self._work, self._tier, {graph: made[0] for graph, made in files.items()})
        try:
            return self._gate.compare(what, engine, self._tier.name)
        finally:
            engine.close()

    def _keep_exact(self, graph: str, why: ParityError) -> None:
        self._watch.note(f"{graph} stays exact in tier {self._tier.name}: {why}")
        self.files[graph] = self._exact(graph)
        self._kept.append(graph)

    def _is_exact(self, graph: str) -> bool:
        return list(self.files[graph]) == list(self._exact(graph))

    def _exact(self, graph: str) -> Sequence[str]:
        return self._target.convert(graph, targets.exact(self._target), self._work)
