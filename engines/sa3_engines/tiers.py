"""Tiers of precision: promises about the answer, kept by one number type or another depending on the machine.

    exact    the reference's own arithmetic, fp32
    high     half precision where the processor has units for it, fp32 where half breaks
    fast     int8 products
    compact  weights stored small, for memory

A tier's floor is the cosine that a graph's answer must keep to the reference's on the same inputs, where an answer of
another size counts like one of another direction; an export that stays below it is not published. `auto` takes the
fastest tier that keeps what `high` promises, and never one below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sa3_engines.errors import InvalidRequest

EXACT, HIGH, FAST, COMPACT = "exact", "high", "fast", "compact"
TIERS = (EXACT, HIGH, FAST, COMPACT)
FLOORS: Mapping[str, float] = MappingProxyType({EXACT: 1 - 1e-6, HIGH: 0.9999, FAST: 0.99, COMPACT: 0.99})
BITS: Mapping[str, int] = MappingProxyType({"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "int4": 4})  # of a weight
TYPES = tuple(BITS)
AUTOMATIC = (EXACT, HIGH)  # what `auto` may take


@dataclass(frozen=True)
class Asked:
    """What a user wrote after --precision, once it is known to be a word of ours."""

    word: str

    def meets(self, tier: str, kind: str) -> bool:
        """Whether a tier made with a number type is what was asked for."""
        return tier in AUTOMATIC if self.word == "auto" else self.word in (tier, kind)


def ask(word: str) -> Asked:
    if word not in ("auto", *TIERS, *TYPES):
        raise InvalidRequest(f"no precision {word!r}; choose from auto, {', '.join(TIERS)}, {', '.join(TYPES)}")
    return Asked(word)
