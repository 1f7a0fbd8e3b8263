"""What the flags of `sa3 generate` say, as a record (see `record.py`), over the one they start from.

Reads no file.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sa3_engines.engine import most_threads
from sa3_engines.errors import InvalidRequest
from sa3_runtime.recipe import Given
from sa3_runtime.request import Request

INIT_NOISE_LEVEL = 0.9
LIMITER = -1.0  # dBTP
MODEL = ("model", "revision", "backend", "device", "precision", "threads", "memory")

Draft = dict[str, Any]


def draft(args: Namespace, base: Mapping[str, Any] | None = None) -> Draft:
    base = base or {}
    made: Draft = {**_model(args, base), "adapters": _adapters(args, base.get("adapters") or [])}
    settings: Draft = dict(base.get("request") or {})
    inputs: Draft = dict(base.get("inputs") or {})
    settings |= {f.name: value for f in fields(Request) if (value := _plain(args, f.name)) is not None}
    if args.init_audio is not None:
        if args.init_noise_level is None and "init_audio" not in inputs:
            settings["init_noise_level"] = INIT_NOISE_LEVEL
        inputs["init_audio"] = {"path": Given(args.init_audio)}
    if args.init_noise_level is not None and "init_audio" not in inputs:
        raise InvalidRequest("--init-noise-level says how far to leave a sound; give that too: --init-audio")
    _inpainting(args, settings, inputs)
    if args.chunked_decode is not None:
        settings["chunked_decode"] = args.chunked_decode
    if args.keep_tail is not None:
        settings["truncate"] = not args.keep_tail
    settings["finish"] = finish(args, settings.get("finish") or {}, LIMITER)
    many = args.batch_size is not None or len(args.prompt or ()) > 1
    if many and args.batch_size is None:
        settings.pop("batch_size", None)
    item = None if many or base.get("items", 1) == 1 else base.get("item")
    return {**made, "request": settings, "inputs": inputs, "item": item}


def _plain(args: Namespace, name: str) -> Any:
    """A flag with the name and the meaning of a field of Request."""
    value = None if name in ("init_audio", "inpaint_audio") else getattr(args, name, None)
    # One seed stands for the batch, a list of seeds for its items one by one.
    return value[0] if name == "seed" and value is not None and len(value) == 1 else value


def _model(args: Namespace, base: Mapping[str, Any]) -> Draft:
    made: Draft = {name: base.get(name) for name in (*MODEL, *({"repo"} & set(base)))}
    if isinstance(made["threads"], int):  # of the machine the clip was made on
        made["threads"] = min(made["threads"], most_threads())
    if args.model is not None:
        made["revision"] = None
    if args.backend is not None:
        made["device"] = made["precision"] = None
    given = {name: value for name in MODEL if (value := getattr(args, name)) is not None}
    return made | {name: Given(value) if isinstance(value, str) else value for name, value in given.items()}


def _adapters(args: Namespace, base: list[Draft]) -> list[Draft]:
    adapters = base if args.lora_ckpt_path is None else [{"path": Given(path)} for path in args.lora_ckpt_path]
    strengths, index = args.lora_strength, args.lora_index
    if strengths is None:
        if index is not None:
            raise InvalidRequest("--lora-index says which adapter --lora-strength is for; give that too")
        return adapters
    if not adapters:
        raise InvalidRequest("--lora-strength needs an adapter: --lora-ckpt-path")
    if index is not None:
        if len(strengths) != 1:
            raise InvalidRequest(f"--lora-index is for one --lora-strength, and there are {len(strengths)}")
        if not 0 <= index < len(adapters):
            raise InvalidRequest(f"--lora-index {index}; adapters are numbered from 0 to {len(adapters) - 1}")
        return [a | {"strength": strengths[0]} if i == index else a for i, a in enumerate(adapters)]
    if len(strengths) not in (1, len(adapters)):
        raise InvalidRequest(f"{len(strengths)} --lora-strength for {len(adapters)} adapters; give one, or one each")
    if len(strengths) == 1:
        strengths = strengths * len(adapters)
    return [a | {"strength": strength} for a, strength in zip(adapters, strengths, strict=True)]


def _inpainting(args: Namespace, settings: Draft, inputs: Draft) -> None:
    starts, ends = args.inpaint_start or [], args.inpaint_end or []
    if len(starts) != len(ends):
        raise InvalidRequest(f"{len(starts)} --inpaint-start and {len(ends)} --inpaint-end; they come in pairs")
    if args.continued is not None:
        if starts:
            raise InvalidRequest("--continue makes what follows the end; --inpaint-start and -end need --inpaint-audio")
        inputs["inpaint_audio"] = {"path": Given(args.continued)}
        settings |= {"continue_audio": True, "inpaint_regions": []}
    if args.inpaint_audio is not None:
        inputs["inpaint_audio"] = {"path": Given(args.inpaint_audio)}
        settings["continue_audio"] = False
    if starts:
        settings |= {
            "continue_audio": False,
            "inpaint_regions": [list(pair) for pair in zip(starts, ends, strict=True)],
        }
    anew = bool(settings.get("inpaint_regions") or settings.get("continue_audio"))
    if anew and "inpaint_audio" not in inputs:
        raise InvalidRequest("--inpaint-start and --inpaint-end need --inpaint-audio")
    if "inpaint_audio" in inputs and not anew:
        raise InvalidRequest("--inpaint-audio needs --inpaint-start and --inpaint-end: the places to make anew")


def finish(args: Namespace, base: Mapping[str, Any], limiter: float | None) -> Draft:
    made: Draft = {"limiter": limiter, **base}
    if args.limiter is not None:
        made["limiter"] = None if args.limiter == "off" else args.limiter
    return made | {name: value for name in ("rate", "channels") if (value := getattr(args, name)) is not None}
