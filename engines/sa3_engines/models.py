"""Where a model is: a name, a folder, a hub repository or `random:NAME[:SEED]` becomes a `Source`.

Downloads when it must, and only here. It reads configurations, never weights.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sa3_engines import config as configs
from sa3_engines.config import ModelConfig
from sa3_engines.errors import CheckpointError, InvalidRequest, ModelNotFound

CONFIG, WEIGHTS, MANIFEST = "model_config.json", "model.safetensors", "manifest.json"
RANDOM = "sa3_random_seed"  # in the configuration of a bundle made from random weights
TEXT_FILES = ("config.json", WEIGHTS, "tokenizer.json")
NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*")
TARGETS = ("onnx", "openvino")  # kinds of bundles
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Released:
    """A model people know by name."""

    name: str
    repo: str
    released: str  # which built-in configuration
    autoencoder: str
    about: str
    seconds: int = 0
    gated: bool = False


_REPO = "stabilityai/stable-audio-3-"
RELEASED: Mapping[str, Released] = {
    m.name: m
    for m in (
        Released(name="small-music", repo=_REPO + "small-music", released="small", autoencoder="same-s", seconds=120,
                 about="music, made for a CPU; 8 steps", gated=True),
        Released(name="small-sfx", repo=_REPO + "small-sfx", released="small", autoencoder="same-s", seconds=120,
                 about="sound effects, made for a CPU; 8 steps", gated=True),
        Released(name="medium", repo=_REPO + "medium", released="medium", autoencoder="same-l", seconds=380,
                 about="music and sound, made for a GPU; 8 steps", gated=True),
        Released(name="small-music-base", repo=_REPO + "small-music-base", released="small-base",
                 autoencoder="same-s", seconds=120, about="before post-training: about 50 steps, cfg about 7"),
        Released(name="small-sfx-base", repo=_REPO + "small-sfx-base", released="small-base",
                 autoencoder="same-s", seconds=120, about="before post-training: about 50 steps, cfg about 7"),
        Released(name="medium-base", repo=_REPO + "medium-base", released="medium-base",
                 autoencoder="same-l", seconds=380, about="before post-training: about 50 steps, cfg about 7"),
        Released(name="same-s", repo="stabilityai/SAME-S", released="same-s", autoencoder="same-s",
                 about="the autoencoder of the small models alone"),
        Released(name="same-l", repo="stabilityai/SAME-L", released="same-l", autoencoder="same-l",
                 about="the autoencoder of the medium models alone"),
    )
}  # fmt: skip
ALIASES = {
    "small": "small-music",
    "small-rf": "small-music-base",
    "medium-rf": "medium-base",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A located model. `folder` is None only for random weights."""

    name: str
    config: ModelConfig
    folder: Path | None = None
    text_folder: Path | None = None
    seed: int | None = None  # of random weights
    repo: str | None = None
    revision: str | None = None
    bundles: tuple[Path, ...] = ()  # what was exported from it, wherever that lies

    @property
    def random_weights(self) -> bool:
        """Made up here, or exported from what was: there is no tokenizer, and nothing to listen to."""
        return self.seed is not None or RANDOM in self.config.raw

    @property
    def trained(self) -> bool:
        """Whether there is something to listen to."""
        return not self.random_weights and bool(self.config.raw.get("sa3_trained", True))

    @property
    def has_graphs(self) -> bool:
        return self.folder is not None and (self.folder / MANIFEST).is_file()

    @property
    def has_weights(self) -> bool:
        return self.folder is not None and (self.folder / WEIGHTS).is_file()

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer's file, or None where there is none and a stand-in has to do."""
        if self.text_folder is None:
            return None
        path = self.text_folder / "tokenizer.json"
        return path if path.is_file() else None

    def autoencoder_only(self) -> Source:
        """The same files, of which only the autoencoder is wanted."""
        c = self.config
        alone = ModelConfig(autoencoder=c.autoencoder, align_latents=c.align_latents, raw=c.raw)
        return replace(self, config=alone, text_folder=None)


def locate(model: str, *, revision: str | None = None, bundles: bool = True) -> Source:
    """`nano`, a released name, `random:NAME[:SEED]`, a folder, or `owner/repository[/subfolder]` on the hub.

    What was exported before from a model of that name stands in for it, so that the hub need not be asked. bundles
    False: the checkpoint itself is wanted.
    """
    if not model:
        raise ModelNotFound("no model '': the name is empty; nano is the one that is always here")
    try:
        Path(model).expanduser()
    except RuntimeError as e:
        raise ModelNotFound(f"no model {model!r}: there is no such user's home folder") from e
    try:
        return _located(model, revision, bundles)
    except OSError as e:
        raise ModelNotFound(f"{e.filename or model} cannot be read: {e.strerror or e}") from e


def _located(model: str, revision: str | None, bundles: bool) -> Source:
    exported = _exported(ALIASES.get(model, model), revision) if bundles else ()
    if exported and not model.startswith("random:") and model != "nano" and not Path(model).expanduser().is_dir():
        return replace(
            from_folder(exported[0], name=ALIASES.get(model, model)), bundles=exported, **_origin(exported[0])
        )
    source = _checkpoint(model, revision)
    # What somebody exported here comes before what came with the checkpoint.
    return replace(source, bundles=(*(folder for folder in exported if folder != source.folder), *source.bundles))


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sa3-runtime"


def bundle_folder(model: str, target: str) -> Path:
    """Where an export goes when nobody says: one folder per model and target."""
    return cache_folder() / "bundles" / f"{_file_name(ALIASES.get(model, model))}-{target}"


def _file_name(model: str) -> str:
    path = Path(model).expanduser()
    whole = str(path.resolve()) if path.is_dir() else model
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in whole).strip("-")
    # a/b and a-b would be one.
    return f"{plain}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}" if {"/", os.sep} & set(whole) else plain


def _exported(model: str, revision: str | None) -> tuple[Path, ...]:
    """Finished bundles of a model in their usual place; of one revision, where one is asked for."""
    places = (bundle_folder(model, target) for target in TARGETS)
    found = tuple(folder for folder in places if (folder / MANIFEST).is_file())
    return tuple(folder for folder in found if revision in (None, _origin(folder)["revision"]))


def _origin(folder: Path) -> dict[str, Any]:
    """Where a bundle's weights came from, as its manifest says; one that cannot be read says nothing."""
    try:
        source = read_json(folder / MANIFEST)["source"]
        return {"repo": source.get("repo"), "revision": source.get("revision")}
    except (CheckpointError, ModelNotFound, KeyError, TypeError, AttributeError):
        return {"repo": None, "revision": None}


def _checkpoint(model: str, revision: str | None) -> Source:
    path = Path(model).expanduser()
    name = ALIASES.get(model, model)
    here = model.startswith("random:") or name == "nano" or (name not in RELEASED and path.exists())
    if here and revision is not None:
        raise InvalidRequest(f"revision {revision!r} of {model}: only repositories on the hub have revisions")
    if model.startswith("random:"):
        return _random(model)
    if name == "nano":
        return from_folder(HERE / "nano", name="nano")
    if name in RELEASED:
        return _from_hub(RELEASED[name].repo, "", revision, name=name)
    if path.is_dir():
        return from_folder(path)
    if path.is_file():
        raise ModelNotFound(f"{model} is a file; a model is the folder that holds {CONFIG} and {WEIGHTS}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w./-]+)?", model) and not model.startswith((".", "/")):
        owner, repo, *sub = model.split("/")
        return _from_hub(f"{owner}/{repo}", "/".join(sub), revision, name=model)
    known = ["nano", *RELEASED, *ALIASES]
    near = difflib.get_close_matches(model, known, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ModelNotFound(
        f"no model {model!r}{hint} Known: {', '.join(known)}; or a folder, owner/repository, random:NAME[:SEED]"
    )


def from_folder(
    folder: Path, *, name: str | None = None, repo: str | None = None, revision: str | None = None
) -> Source:
    """A checkpoint or bundle folder, exactly as published."""
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise ModelNotFound(f"{folder} holds no {CONFIG}; a model is a folder with {CONFIG} and {WEIGHTS}")
    raw = read_json(config_path)
    text_raw, text_folder = None, None
    if configs.is_full(raw):
        wanted = configs.text_folder(raw)
        # Mirrors keep one variant per subfolder, and some keep the text encoder once, beside them.
        found = [f for f in (folder / wanted, folder.absolute().parent / wanted) if (f / "config.json").is_file()]
        if not found:
            raise CheckpointError(f"{folder}: the text encoder's folder {wanted}/ (with config.json) is missing")
        text_folder = found[0]
        text_raw = read_json(text_folder / "config.json")
    return Source(
        name=name or folder.resolve().name,
        config=configs.parse(raw, text_raw),
        folder=folder,
        text_folder=text_folder,
        repo=repo,
        revision=revision,
        bundles=(folder,) if (folder / MANIFEST).is_file() else (),
    )


def files(source: Source) -> dict[str, Path]:
    """A checkpoint's files: their names in a bundle, and where they are. Empty for random weights."""
    if source.folder is None:
        return {}
    found = {name: source.folder / name for name in (CONFIG, WEIGHTS)}
    if source.config.text is not None and source.text_folder is not None:
        found |= {f"{source.config.text.folder}/{name}": source.text_folder / name for name in TEXT_FILES}
        if source.tokenizer is None:
            del found[f"{source.config.text.folder}/tokenizer.json"]
    for pattern in NOTICES:
        found |= {path.name: path for path in source.folder.glob(pattern) if path.is_file()}
    for path in found.values():
        if not path.is_file():
            index = path.with_name(f"{path.name}.index.json")
            split = f"; {index.name} says that it is split into several: save it as one file" if index.is_file() else ""
            raise CheckpointError(f"{path} is missing{split}")
    return found


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise ModelNotFound(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is not JSON: {e}") from e


@cache
def released_config(name: str) -> ModelConfig:
    """A built-in configuration by the name of a released model, or nano's."""
    name = ALIASES.get(name, name)
    if name == "nano":
        return from_folder(HERE / "nano").config
    if name not in RELEASED:
        raise InvalidRequest(f"no built-in configuration {name!r}; choose from nano, {', '.join(RELEASED)}")
    raw = read_json(HERE / "released" / f"{RELEASED[name].released}.json")
    text = read_json(HERE / "released" / "t5gemma.json") if configs.is_full(raw) else None
    return configs.parse(raw, text)


def _random(model: str) -> Source:
    _, name, *rest = model.split(":")
    if len(rest) > 1 or (rest and not re.fullmatch(r"\d+", rest[0])):
        raise InvalidRequest(f"{model!r}: write random:NAME or random:NAME:SEED, SEED a whole number from 0 up")
    return Source(name=model, config=released_config(name), seed=int(rest[0]) if rest else 0)


def _from_hub(repo: str, subfolder: str, revision: str | None, *, name: str) -> Source:
    wanted = RELEASED.get(name)
    if wanted and not configs.is_full(read_json(HERE / "released" / f"{wanted.released}.json")):
        cached = _cached_autoencoder(wanted, revision)
        if cached is not None:
            return cached
    prefix = f"{subfolder}/" if subfolder else ""
    # A bundle says itself what belongs to it; a repository may hold others in its subfolders.
    root = _download(repo, revision, [f"{prefix}{MANIFEST}"], "" if wanted else f"there is no folder {name}, and ")
    manifest = root / subfolder / MANIFEST
    if manifest.is_file():
        patterns = [f"{prefix}{file}" for file in _listed(manifest)]
    else:
        patterns = [f"{prefix}{file}" for file in (CONFIG, WEIGHTS, *NOTICES)]
        patterns += [f"{place}t5gemma-b-b-ul2/{file}" for place in {"", prefix} for file in TEXT_FILES]
    _download(repo, root.name, patterns)
    return from_folder(root / subfolder, name=name, repo=repo, revision=root.name)


def _listed(manifest: Path) -> list[str]:
    try:
        return [str(name) for name in read_json(manifest)["files"]]
    except (KeyError, TypeError) as e:
        raise CheckpointError(f"{manifest} lists no files; export the bundle again") from e


def _cached_autoencoder(wanted: Released, revision: str | None) -> Source | None:
    """A standalone autoencoder out of a full checkpoint that is already here, instead of downloading it again."""
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(wanted.repo, WEIGHTS, revision=revision), str):
        return None
    for full in RELEASED.values():
        if full.autoencoder != wanted.autoencoder or full.name == wanted.name:
            continue
        weights = try_to_load_from_cache(full.repo, WEIGHTS)
        if isinstance(weights, str) and (Path(weights).parent / CONFIG).is_file():
            folder = Path(weights).parent
            config = configs.parse(read_json(folder / CONFIG))
            found = Source(name=wanted.name, config=config, folder=folder, repo=full.repo, revision=folder.name)
            return found.autoencoder_only()
    return None


def _download(repo: str, revision: str | None, patterns: list[str], before: str = "") -> Path:
    """A snapshot's folder; its name is the commit. Offline mode (HF_HUB_OFFLINE) is the hub client's to honour. before:
    what an error says first where the name may have been meant for something else.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    at = f" at revision {revision}" if revision else ""
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as e:
        raise ModelNotFound(
            f"{repo} is gated: open {page}, accept its licence, then run `hf auth login` (or set HF_TOKEN)"
        ) from e
    except errors.RevisionNotFoundError as e:
        raise ModelNotFound(f"{repo} has no revision {revision!r}; see {page}/commits") from e
    except errors.RepositoryNotFoundError as e:
        raise ModelNotFound(
            f"{before}{repo} does not exist on the hub, or it is private and this machine is not logged in"
        ) from e
    except errors.HFValidationError as e:
        raise ModelNotFound(f"{repo} is not a name a repository can have, and no folder: {e}") from e
    except (errors.HTTPError, errors.LocalEntryNotFoundError, OSError) as e:  # pyright: ignore[reportPrivateImportUsage]
        if (status := _status(e)) is not None:
            what = _ANSWERS.get(status, "try again later" if status >= 500 else f"see {page}")
            raise ModelNotFound(f"{before}{repo}{at} cannot be had: the hub answered {status}; {what}") from e
        if isinstance(e, errors.LocalEntryNotFoundError):
            raise ModelNotFound(
                f"{before}{repo}{at} is not in the local cache and the hub cannot be reached (offline mode, or no "
                "network); pass a local folder, or connect once"
            ) from e
        raise ModelNotFound(f"{repo}{at} could not be downloaded: {' '.join(str(e).split())}") from e


_ANSWERS = {
    401: "run `hf auth login`, or set HF_TOKEN",
    403: "this account may not read it",
    404: "there is no such repository or file",
    429: "it was asked too often; try again later",
}


def _status(error: BaseException) -> int | None:
    """What the hub answered, where it did: the client looks into its cache then, and says so first."""
    for one in (error, error.__cause__):
        code = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
    return None
