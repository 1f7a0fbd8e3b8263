"""Builds the networks of a located model and fills them, from a checkpoint's files or with seeded random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sa3_engines import tables
from sa3_engines.config import AutoencoderConfig, DiTConfig, ModelConfig, ResamplerConfig, TextConfig
from sa3_engines.errors import CheckpointError
from sa3_engines.models import WEIGHTS, Source
from stable_audio_3.networks.dit import DiT
from stable_audio_3.networks.same import SAME, Decoder, Encoder, ResamplingBlock
from stable_audio_3.networks.t5gemma import T5GemmaEncoder
from stable_audio_3.random_weights import random_tensor

DIT, AUTOENCODER, CONDITIONER, TEXT = (
    "model.model.",
    "pretransform.model.",
    "conditioner.conditioners.",
    "model.encoder.",
)

FLOATS = ("F64", "F32", "F16", "BF16")


class Conditioners(nn.Module):
    """The conditioners' own weights. They are applied on the host, so this only holds them."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.prompt = nn.ParameterDict({"padding_embedding": torch.empty(width)})
        embedding = nn.Sequential(nn.Identity(), nn.Linear(features, width))
        self.seconds_total = nn.ModuleDict({"embedder": nn.ModuleDict({"embedding": embedding})})


@dataclass(frozen=True)
class Networks:
    """A model's parts. Only the autoencoder is always there."""

    autoencoder: SAME
    dit: DiT | None = None
    text: T5GemmaEncoder | None = None
    conditioners: Conditioners | None = None

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Every part under the prefix its tensors have in a full checkpoint."""
        yield AUTOENCODER, self.autoencoder
        if self.dit is not None:
            yield DIT, self.dit
        if self.conditioners is not None:
            yield CONDITIONER, self.conditioners
        if self.text is not None:
            yield TEXT, self.text


def load(source: Source, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Networks:
    """The networks with their weights, in one dtype, mapped and cast tensor by tensor: never two copies."""
    with torch.device("meta"):
        networks = build(source.config)
    if source.seed is not None:
        seed = source.seed
        for prefix, part in networks.parts():
            _fill(part, lambda key, like, prefix=prefix: random_tensor(prefix + key, like, seed), dtype, device)
    else:
        _load_files(source, networks, dtype, device)
    for _, part in networks.parts():
        part.eval().requires_grad_(False)
    return networks


def build(config: ModelConfig) -> Networks:
    """The networks, with whatever PyTorch initialises them to; on the meta device that is nothing."""
    dit = _dit(config.dit) if config.dit else None
    return Networks(
        autoencoder=_autoencoder(config.autoencoder),
        dit=dit,
        text=_text(config.text) if config.text else None,
        conditioners=Conditioners(config.dit.context_width, 256) if config.dit else None,
    )


def _dit(c: DiTConfig) -> DiT:
    return DiT(
        channels=c.channels,
        width=c.width,
        depth=c.depth,
        heads=c.heads,
        context_width=c.context_width,
        global_width=c.global_width,
        local_width=c.local_width,
        ff_mult=c.ff_mult,
        memory_tokens=c.memory_tokens,
        rope_dims=c.rope_dims,
        differential=c.differential,
        timestep_features=c.timestep_features,
    )


def _text(c: TextConfig) -> T5GemmaEncoder:
    return T5GemmaEncoder(
        vocab_size=c.vocab_size,
        width=c.width,
        depth=c.depth,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        ff_width=c.ff_width,
        query_scale=c.query_scale,
        logit_cap=c.logit_cap,
        eps=c.eps,
    )


def _autoencoder(c: AutoencoderConfig) -> SAME:
    def half(h: ResamplerConfig, *, decoder: bool) -> ResamplingBlock:
        return ResamplingBlock(
            width=h.width,
            patch_width=c.channels * c.patch,
            depth=h.depth,
            heads=h.heads,
            stride=h.stride,
            ff_mult=h.ff_mult,
            rope_dims=h.rope_dims,
            differential=h.differential,
            window=h.window,
            chunk_tokens=h.chunk_tokens,
            midpoint_shift=h.midpoint_shift,
            kernel=h.kernel,
            sinusoidal_from=h.sinusoidal_from,
            mask_noise=h.mask_noise,
            decoder=decoder,
        )

    return SAME(
        Encoder(half(c.encoder, decoder=False), c.encoder.width, c.latent_channels),
        Decoder(half(c.decoder, decoder=True), c.decoder.width, c.latent_channels),
        c.latent_channels,
        c.patch,
    )


def _load_files(source: Source, networks: Networks, dtype: torch.dtype, device: torch.device | str) -> None:
    assert source.folder is not None
    with ExitStack() as stack:
        main = _File(source.folder / WEIGHTS, stack)
        files = {TEXT: _File(source.text_folder / WEIGHTS, stack)} if source.text_folder else {}
        standalone = not any(key.startswith(AUTOENCODER) for key in main.shapes)
        parts = [
            (part, files.get(prefix, main), "" if standalone and prefix == AUTOENCODER else prefix)
            for prefix, part in networks.parts()
        ]
        full = networks.dit is not None
        # A standalone autoencoder may come out of a full checkpoint, and a text encoder's file holds its decoder.
        strict = {main.path: full or standalone}
        _check([(part, file, prefix) for part, file, prefix in parts], strict)
        for part, file, prefix in parts:
            _fill(part, lambda key, like, file=file, prefix=prefix: file.tensor(prefix + key), dtype, device)


class _File:
    """An open safetensors file, mapped: tensors come out one by one."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            self.file = stack.enter_context(safe_open(path, "pt"))
            slices = {key: self.file.get_slice(key) for key in self.file.keys()}
        except (SafetensorError, OSError) as e:
            raise CheckpointError(f"{path} is not a complete safetensors file: {e}") from e
        self.shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
        self.types = {key: str(one.get_dtype()) for key, one in slices.items()}

    def tensor(self, key: str) -> Tensor:
        return self.file.get_tensor(key)


def _check(parts: list[tuple[nn.Module, _File, str]], strict: dict[Path, bool]) -> None:
    """One error that names every tensor that is missing, misshapen or has no place."""
    wanted: dict[Path, dict[str, tuple[int, ...]]] = {}
    files: dict[Path, _File] = {}
    for part, file, prefix in parts:
        shapes = {prefix + key: tuple(tensor.shape) for key, tensor in part.state_dict().items()}
        wanted.setdefault(file.path, {}).update(shapes)
        files[file.path] = file
    problems: list[str] = []
    for path, shapes in wanted.items():
        found, types = files[path].shapes, files[path].types
        missing = [key for key in shapes if key not in found]
        extra = [key for key in found if key not in shapes] if strict.get(path) else []
        misshapen = [
            f"{key} {list(found[key])}, needs {list(shape)}"
            for key, shape in shapes.items()
            if key in found and found[key] != shape
        ]
        # Whole numbers and eight bits need scales, which this loader has no place for.
        quantised = [f"{key} {types[key]}" for key in shapes if key in types and types[key] not in FLOATS]
        for what, names in (
            ("missing", missing),
            ("misshapen", misshapen),
            ("quantised", quantised),
            ("not of this model", extra),
        ):
            if names:
                shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
                problems.append(f"{path}: {len(names)} {what}: {shown}")
    if problems:
        raise CheckpointError("the checkpoint does not fit its configuration. " + ". ".join(problems))


def _fill(
    part: nn.Module,
    tensor: Callable[[str, Tensor], Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Gives every parameter and buffer its tensor. Zero-element ones are allowed; frequencies stay fp32."""
    for key, like in part.state_dict().items():
        value = tensor(key, like)
        # The embedding table keeps the file's dtype: rows are cast as they are looked up.
        if not key.endswith("embed_tokens.weight"):
            value = value.to(torch.float32 if key.endswith("inv_freq") else dtype)
        owner_name, _, name = key.rpartition(".")
        owner = part.get_submodule(owner_name)
        value = value.to(device)
        if name in dict(owner.named_buffers(recurse=False)):
            owner.register_buffer(name, value)
        elif isinstance(owner, nn.ParameterDict):
            owner[name] = nn.Parameter(value, requires_grad=False)
        else:
            owner.register_parameter(name, nn.Parameter(value, requires_grad=False))


def check_frequencies(networks: Networks) -> None:
    """Rotary tables are made on the host from a formula; a checkpoint with other frequencies is another model."""
    for prefix, part in networks.parts():
        for key, value in part.named_buffers():
            if key.endswith("inv_freq"):
                expected = torch.from_numpy(tables.rope_frequencies(2 * len(value)).copy())
                # Not closer than bf16: mirrors keep even these in it, and nothing computes with them.
                if not torch.allclose(value.cpu(), expected, rtol=1e-2):
                    raise CheckpointError(f"{prefix}{key} holds other rotary frequencies than this architecture's")
