"""What a record's fields hold, by kind. A record comes from a file that anyone could have edited: the first field that
holds something else is named, before anything is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sa3_engines.errors import InvalidRequest

FAR = 1e15  # a whole number beyond it is none that any arithmetic here keeps
SHOWN = 60  # characters of a wrong value


@dataclass(frozen=True)
class Kind:
    wanted: str
    fits: Callable[[Any], bool]
    optional: bool = False  # null stands for: not chosen


def _is_number(value: Any) -> bool:
    """Neither NaN nor infinite: those are no JSON, though Python reads them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -FAR <= value <= FAR


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_pair(value: Any) -> bool:
    return _all(_is_number, value) and len(value) == 2


def _all(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(fits, value))


def _is_shift(value: Any) -> bool:
    if not _is_object(value):
        return _is_text(value)
    return all(_is_text(v) if k == "type" else isinstance(v, bool) or _is_number(v) for k, v in value.items())


TEXT = Kind("a text", _is_text)
TEXTS = Kind("a text or a list of texts", lambda v: _is_text(v) or (_all(_is_text, v) and len(v) > 0))
WHOLE = Kind("a whole number", _is_whole)
WHOLES = Kind("a whole number or a list of them", lambda v: _is_whole(v) or (_all(_is_whole, v) and len(v) > 0))
NUMBER = Kind("a number", _is_number)
NUMBERS = Kind("a number or a list of them", lambda v: _is_number(v) or (_all(_is_number, v) and len(v) > 0))
PAIR = Kind("two numbers", _is_pair)
PAIRS = Kind("a list of two numbers each", lambda v: _all(_is_pair, v))
SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
OBJECT = Kind("an object", _is_object)
OBJECTS = Kind("a list of objects", lambda v: _all(_is_object, v))
SHIFT = Kind("a name, or an object with a type and numbers", _is_shift)


def maybe(kind: Kind) -> Kind:
    return replace(kind, optional=True)


Fields = Mapping[str, Kind]
RECORD: Fields = {
    **dict.fromkeys(("model", "revision", "repo", "backend", "device", "precision", "memory", "created"), maybe(TEXT)),
    **dict.fromkeys(("threads", "item", "items"), maybe(WHOLE)),
    **dict.fromkeys(("request", "inputs", "output", "versions"), OBJECT),
    "adapters": OBJECTS,
}
REQUEST: Fields = {
    "prompt": TEXTS,
    "negative_prompt": maybe(TEXTS),
    "seconds": NUMBERS,
    "seed": WHOLES,
    "steps": WHOLE,
    **dict.fromkeys(("batch_size", "sample_size"), maybe(WHOLE)),
    **dict.fromkeys(("cfg_scale", "apg_scale", "cfg_rescale", "cfg_norm_threshold"), NUMBER),
    **dict.fromkeys(("init_noise_level", "padding_seconds"), NUMBER),
    "sampler": maybe(TEXT),
    "dist_shift": maybe(SHIFT),
    "cfg_interval": PAIR,
    "inpaint_regions": PAIRS,
    **dict.fromkeys(("continue_audio", "autoencoder_noise", "truncate", "truncate_prompt"), SWITCH),
    "chunked_decode": maybe(SWITCH),
    **dict.fromkeys(("resampler", "padding"), TEXT),
    **dict.fromkeys(("chunking", "finish"), OBJECT),
    "adapters": maybe(OBJECTS),
}
CHUNKING: Fields = {"size": WHOLE, "overlap": WHOLE}
FINISH: Fields = {"limiter": maybe(NUMBER), "rate": maybe(WHOLE), "channels": maybe(WHOLE)}
USE: Fields = {"index": WHOLE, "interval": PAIR, "skip_layers": maybe(TEXT)}
ADAPTER: Fields = {"path": TEXT, "sha256": maybe(TEXT), "strength": NUMBER}
INPUT: Fields = {"path": maybe(TEXT), "sha256": maybe(TEXT)}
OUTPUT: Fields = {"file": maybe(TEXT), "format": maybe(TEXT), "bits": maybe(TEXT)}


def check(record: Mapping[str, Any]) -> None:
    _check(record, RECORD, "")
    request = record.get("request", {})
    _check(request, REQUEST, "request.")
    _check(request.get("chunking", {}), CHUNKING, "request.chunking.", whole=True)
    _check(request.get("finish", {}), FINISH, "request.finish.", whole=True)
    _check(record.get("output", {}), OUTPUT, "output.")
    _check(record.get("versions", {}), dict.fromkeys(record.get("versions", {}), TEXT), "versions.")
    for index, use in enumerate(request.get("adapters") or ()):
        _check(use, USE, f"request.adapters[{index}].", needed="index")
    for index, adapter in enumerate(record.get("adapters", ())):
        _check(adapter, ADAPTER, f"adapters[{index}].", needed="path")
    for name, given in record.get("inputs", {}).items():
        if not isinstance(given, dict):
            raise InvalidRequest(f"inputs.{name} is {shown(given)}; expected {OBJECT.wanted}")
        _check(given, INPUT, f"inputs.{name}.")


def _check(values: Mapping[str, Any], kinds: Fields, where: str, *, whole: bool = False, needed: str = "") -> None:
    if needed and needed not in values:
        raise InvalidRequest(f"{where}{needed} is missing")
    for name, value in values.items():
        kind = kinds.get(name)
        if kind is None and whole:
            raise InvalidRequest(f"{where}{name} is unknown here; update sa3-runtime")
        if kind is not None and not (value is None and kind.optional) and not kind.fits(value):
            raise InvalidRequest(f"{where}{name} is {shown(value)}; expected {kind.wanted}")


def shown(value: Any) -> str:
    """As the file has it, as far as that helps."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
