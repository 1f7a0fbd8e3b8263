"""What to run where no bundle has what is asked for: only commands that this machine can carry out are named.

It mirrors what the exporter's targets make on a processor, since engines are installed without the exporter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from sa3_engines import processor
from sa3_engines.models import TARGETS
from sa3_engines.tiers import COMPACT, EXACT, FAST, HIGH, TIERS

NO_HALF = "this processor has no half precision (avx512_bf16, avx512_fp16, amx)"
NO_BYTES = "this processor has no products of bytes (avx512_vnni, avx_vnni)"
# The tier in which an export has a number type, if at all.
TIER_OF: Mapping[str, str] = MappingProxyType(
    {"fp32": EXACT, "bf16": HIGH, "fp16": HIGH, "int8": FAST, "int4": COMPACT, **{tier: tier for tier in TIERS}}
)


def why_not(target: str, precision: str, flags: frozenset[str]) -> str | None:
    """None where a target makes a tier or a number type on a processor with these flags."""
    tier = TIER_OF.get(precision, EXACT)  # auto makes what it can, and exact always
    if tier == EXACT:
        return None
    if tier == HIGH and target == "onnx":
        return "ONNX Runtime has no half precision on processors"
    if tier == HIGH:
        half = processor.half_precision(flags)
        if half is not None and precision not in (HIGH, half[0]):
            return f"the half precision of this processor is {half[0]}"
        return NO_HALF if half is None else None
    return NO_BYTES if target == "openvino" and processor.products_of_bytes(flags) is None else None


def export(model: str, target: str, precision: str, held: Mapping[str, Collection[str]], flags: frozenset[str]) -> str:
    """The end of a sentence that says what is missing: the export that brings it, with the target or else with another,
    or why there is none. held: the tiers that are there by target, for an export drops what it is not asked for.
    """
    for one in sorted(TARGETS, key=lambda one: one != target):
        if why_not(one, precision, flags) is None:
            return f"run: sa3-export --model {model} --target {one}{_tiers(one, precision, held.get(one, ()), flags)}"
    # Half precision alone is what no target may make.
    return f"no export on this machine has {precision}: {why_not('openvino', precision, flags)}"


def _tiers(target: str, precision: str, held: Collection[str], flags: frozenset[str]) -> str:
    if precision == "auto" and COMPACT not in held:  # auto asks for all others
        return ""
    wanted = {EXACT, TIER_OF.get(precision, EXACT), *held}
    return f" --precision {','.join(t for t in TIERS if t in wanted and why_not(target, t, flags) is None)}"
