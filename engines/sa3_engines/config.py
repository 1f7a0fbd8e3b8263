"""What a model is: `model_config.json` (and the text encoder's `config.json`) read into plain values, once.

Keys this toolkit has no use for are ignored, as upstream does; a block of a kind it does not know is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sa3_engines.errors import CheckpointError

Json = Mapping[str, Any]
# What no model comes near: with more, making its networks fails or does not end before its weights are looked at.
MOST, WIDEST, DEEPEST = 1 << 31, 1 << 20, 1000


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The T5Gemma encoder, and how prompts reach it."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    ff_width: int
    query_scale: float  # query_pre_attn_scalar
    logit_cap: float
    rope_theta: float = 10000.0
    eps: float = 1e-6
    max_tokens: int = 256
    folder: str = "t5gemma-b-b-ul2"


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer."""

    channels: int  # of the latents
    width: int
    depth: int
    heads: int
    context_width: int
    global_width: int
    local_width: int
    ff_mult: float
    memory_tokens: int
    differential: bool
    timestep_features: int = 256
    timestep_logsnr: bool = False

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rope_dims(self) -> int:
        return max(self.head_dim // 2, 32)


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """One half of the SAME autoencoder: its only resampling block."""

    width: int
    depth: int
    head_dim: int
    stride: int
    ff_mult: float
    differential: bool
    window: tuple[int, int] | None  # in latents; None: chunked
    chunk: int  # in patches
    midpoint_shift: bool
    kernel: int  # of the mapping convolution
    sinusoidal_from: int  # blocks from this one on use sin(pi x) as activation
    mask_noise: float

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def rope_dims(self) -> int:
        return self.head_dim // 2

    @property
    def group(self) -> int:
        """Tokens per latent: the patches it covers and itself."""
        return self.stride + 1

    @property
    def chunk_tokens(self) -> int:
        return self.chunk + self.chunk // self.stride

    @property
    def latents_multiple(self) -> int:
        """Latents per chunk, the granularity this half works in."""
        return 1 if self.window else max(1, self.chunk // self.stride)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    sample_rate: int
    channels: int  # of the audio
    latent_channels: int
    patch: int
    encoder: ResamplerConfig
    decoder: ResamplerConfig
    noise_regularize: bool
    chunked: bool = True  # the default of generate(); standalone use defaults to one pass

    @property
    def ratio(self) -> int:
        """Audio samples per latent."""
        return self.patch * self.encoder.stride


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole checkpoint. `dit` and `text` are None for a standalone autoencoder."""

    autoencoder: AutoencoderConfig
    dit: DiTConfig | None = None
    text: TextConfig | None = None
    objective: str = "rf_denoiser"
    seconds_min: float = 0.0
    seconds_max: float = 384.0
    sample_size: int = 5_292_032
    learned_seconds: float = math.inf  # how long the sounds were that it learned from, where that is less than it makes
    align_latents: int = 2
    sampling_shift: Mapping[str, Any] | None = None
    mask_padding: bool = True
    schedule_by_length: bool = True
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    raw_text: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def sample_rate(self) -> int:
        return self.autoencoder.sample_rate

    @property
    def ratio(self) -> int:
        return self.autoencoder.ratio

    @property
    def longest_seconds(self) -> float:
        """What the checkpoint was made for; the sample size also holds the padding."""
        return min(self.seconds_max, self.sample_size / self.sample_rate)

    def usual_seconds(self, seconds: float) -> float:
        """`seconds`, or as much as the model makes well."""
        return min(seconds, self.longest_seconds, self.learned_seconds)


class _Reader:
    """Reads keys of one block, and says where it stood when one is missing or odd."""

    def __init__(self, block: object, where: str, file: str = "model_config.json") -> None:
        if not isinstance(block, Mapping):
            raise CheckpointError(f"{file}: {where or 'the file'} is not an object")
        self.block = cast("Json", block)
        self.where = where
        self.file = file

    def _inside(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _path(self, key: str) -> str:
        return f"{self.file}: {self._inside(key)}"

    def wrong(self, key: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path(key)} {what}")

    def into(self, key: str) -> _Reader:
        if key not in self.block:
            raise self.wrong(key, "is missing")
        return _Reader(self.block[key], self._inside(key), self.file)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.block.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # NaN
            raise self.wrong(key, f"is {value!r}, a number was expected")
        return self._within(key, value, MOST)

    def positive(self, key: str, default: float) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise CheckpointError(f"{self._path(key)} is {value!r}; it must be above 0")
        return self._within(key, value, WIDEST)

    def count(self, key: str, default: int | None = None, *, most: int = WIDEST) -> int:
        return self._whole(key, self.number(key, default), most)

    def one(self, key: str, default: int | None = None) -> int:
        """A list that released models always give one entry."""
        value = self.block.get(key, [default] if default is not None else None)
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 1:
            raise CheckpointError(f"{self._path(key)} is {value!r}; one resampling block is supported")
        return self._whole(key, value[0], DEEPEST)

    def pair(self, key: str) -> tuple[int, int] | None:
        value = self.block.get(key)
        if not value:
            return None
        if not isinstance(value, Sequence) or len(value) != 2:
            raise CheckpointError(f"{self._path(key)} is {value!r}, two counts were expected")
        return self._whole(key, value[0], WIDEST), self._whole(key, value[1], WIDEST)

    def _whole(self, key: str, value: object, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value % 1:
            raise CheckpointError(f"{self._path(key)} is {value!r}, a count was expected")
        return int(self._within(key, value, most))

    def _within(self, key: str, value: float, most: int) -> float:
        if abs(value) > most:
            shown = f"{value:g}" if abs(value) < 1e100 else "over 1e100"
            raise self.wrong(key, f"is {shown}, and no model has more than {most:,}")
        return value

    def choice(self, key: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
        value = self.block.get(key, default)
        if value not in allowed:
            names = ", ".join(str(a) for a in allowed if a is not None)
            raise CheckpointError(f"{self._path(key)} is {value!r}; this toolkit knows {names}")
        return value

    def absent(self, *keys: str) -> None:
        for key in keys:
            if self.block.get(key):
                raise CheckpointError(f"{self._path(key)} is set, and no released model uses it")


def parse(config: object, text_config: object | None = None, *, text_folder: str | None = None) -> ModelConfig:
    """A full checkpoint's configuration, or a standalone autoencoder's."""
    top = _Reader(config, "")
    model = top.into("model")
    rate, channels = top.count("sample_rate", most=MOST), top.count("audio_channels", 2)
    if rate == 0:
        raise CheckpointError("model_config.json: sample_rate is 0")
    if "encoder" in model.block:
        autoencoder = _autoencoder(model, rate, channels, chunked=False)
        return ModelConfig(autoencoder=autoencoder, align_latents=_align(autoencoder), raw=top.block)
    top.choice("model_type", ("diffusion_cond_inpaint", "diffusion_cond"), "diffusion_cond_inpaint")
    pretransform = model.into("pretransform")
    pretransform.choice("type", ("autoencoder",), "autoencoder")
    if pretransform.number("scale", 1.0) != 1.0:
        raise CheckpointError("model_config.json: model.pretransform.scale is not 1, and no released model scales")
    chunked = bool(pretransform.block.get("chunked", False))
    autoencoder = _autoencoder(pretransform.into("config"), rate, channels, chunked=chunked)
    diffusion = model.into("diffusion")
    max_tokens, folder, seconds = _conditioning(model.into("conditioning"))
    dit = _dit(diffusion, autoencoder.latent_channels)
    shift = diffusion.block.get("sampling_distribution_shift_options")
    if shift is not None and not isinstance(shift, Mapping):
        raise CheckpointError("model_config.json: model.diffusion.sampling_distribution_shift_options is not an object")
    text = None if text_config is None else _text(text_config, max_tokens, text_folder or folder)
    if text is not None and text.width != dit.context_width:
        raise CheckpointError(
            f"the text encoder is {text.width} wide and the model's prompts {dit.context_width}; they must be the same"
        )
    return ModelConfig(
        autoencoder=autoencoder,
        dit=dit,
        text=text,
        objective=diffusion.choice("diffusion_objective", ("rf_denoiser", "rectified_flow"), "rectified_flow"),
        seconds_min=seconds[0],
        seconds_max=seconds[1],
        sample_size=top.count("sample_size", most=MOST),
        learned_seconds=top.positive("sa3_learned_seconds", math.inf)
        if "sa3_learned_seconds" in top.block
        else math.inf,
        align_latents=_align(autoencoder),
        sampling_shift=cast("Json | None", shift),
        mask_padding=bool(diffusion.block.get("mask_padding_attention", False)),
        schedule_by_length=bool(diffusion.block.get("use_effective_length_for_schedule", False)),
        raw=top.block,
        raw_text={} if text_config is None else cast("Json", text_config),
    )


def text_folder(config: object) -> str:
    """The folder, beside model_config.json, that holds the text encoder."""
    return _conditioning(_Reader(config, "").into("model").into("conditioning"))[1]


def is_full(config: object) -> bool:
    """Whether a configuration describes a whole model rather than an autoencoder alone."""
    return "encoder" not in _Reader(config, "").into("model").block


def _align(autoencoder: AutoencoderConfig) -> int:
    # The chunk size falls back to its default of 32 where sliding-window models leave it out.
    return max(1, autoencoder.encoder.chunk // autoencoder.encoder.stride)


def _conditioning(block: _Reader) -> tuple[int, str, tuple[float, float]]:
    configs = block.block.get("configs")
    if not isinstance(configs, Sequence) or isinstance(configs, str):
        raise CheckpointError("model_config.json: model.conditioning.configs is not a list")
    tokens, folder, seconds = 0, "", (0.0, 384.0)
    for index, entry in enumerate(cast("Sequence[object]", configs)):
        one = _Reader(entry, f"model.conditioning.configs[{index}]")
        match one.block.get("id"), one.block.get("type"):
            case "prompt", "t5gemma":
                inner = one.into("config")
                inner.choice("padding_mode", ("learned",), "learned")
                tokens = inner.count("max_length", 256)
                folder = _folder(inner)
            case "seconds_total", "number":
                inner = one.into("config")
                inner.choice("fourier_features_type", ("expo",), None)
                seconds = (inner.number("min_val", 0), inner.number("max_val", 384))
                if seconds[0] >= seconds[1]:
                    raise CheckpointError(f"model_config.json: seconds_total goes from {seconds[0]} to {seconds[1]}")
            case name, kind:
                raise CheckpointError(
                    f"model_config.json: conditioner {name!r} of type {kind!r}; "
                    "this toolkit knows prompt (t5gemma) and seconds_total (number)"
                )
    if not tokens:
        raise CheckpointError("model_config.json: model.conditioning has no prompt conditioner")
    return tokens, folder, seconds


def _folder(block: _Reader) -> str:
    """A checkpoint may come from anywhere, and an export writes into a folder of this name: it must stay inside."""
    name: Any = block.block.get("subfolder", "t5gemma-b-b-ul2")
    parts = name.split("/") if isinstance(name, str) else [""]
    if not set(parts).isdisjoint(("", ".", "..")) or not name.isprintable() or set(name) & set("\\:"):
        raise block.wrong("subfolder", f"is {name!r}; the name of a folder beside model_config.json was expected")
    return str(name)


def _dit(diffusion: _Reader, latent_channels: int) -> DiTConfig:
    diffusion.choice("type", ("dit",), "dit")
    diffusion.absent("input_concat_ids", "prepend_cond_ids", "modular_local_cond_configs")
    for key, expected in (
        ("cross_attention_cond_ids", ["prompt", "seconds_total"]),
        ("global_cond_ids", ["seconds_total"]),
        ("local_add_cond_ids", ["inpaint_mask", "inpaint_masked_input"]),
    ):
        if diffusion.block.get(key) != expected:
            raise CheckpointError(
                f"model_config.json: model.diffusion.{key} is {diffusion.block.get(key)!r}; expected {expected}"
            )
    c = diffusion.into("config")
    c.choice("global_cond_type", ("adaLN",), "adaLN")
    c.choice("norm_type", ("rms_norm",), "rms_norm")
    c.choice("timestep_features_type", ("expo",), None)
    c.choice("timestep_cond_type", ("global",), "global")
    c.choice("patch_size", (1,), 1)
    c.choice("project_cond_tokens", (True,), True)
    c.choice("project_global_cond", (True,), True)
    attention = c.into("attn_kwargs")
    attention.choice("qk_norm", ("rms",), None)
    width, heads = c.count("embed_dim"), c.count("num_heads")
    if not heads or not width or width % heads:
        raise CheckpointError(f"model_config.json: embed_dim {width} does not divide into {heads} heads")
    if c.count("io_channels") != latent_channels:
        raise CheckpointError(
            "model_config.json: the transformer's io_channels differ from the autoencoder's latent_dim"
        )
    return DiTConfig(
        channels=latent_channels,
        width=width,
        depth=c.count("depth", most=DEEPEST),
        heads=heads,
        context_width=c.count("cond_token_dim"),
        global_width=c.count("global_cond_dim"),
        local_width=c.count("local_add_cond_dim"),
        ff_mult=c.into("ff_kwargs").positive("mult", 4.0) if "ff_kwargs" in c.block else 4.0,
        memory_tokens=c.count("num_memory_tokens", 0),
        differential=bool(attention.block.get("differential", False)),
        timestep_features=c.count("timestep_features_dim", 256),
        timestep_logsnr=bool(c.block.get("timestep_features_logsnr", False)),
    )


def _autoencoder(block: _Reader, rate: int, channels: int, *, chunked: bool) -> AutoencoderConfig:
    bottleneck = block.into("bottleneck")
    bottleneck.choice("type", ("softnorm",), None)
    soft = bottleneck.into("config")
    if soft.count("noise_augment_dim", 0):
        raise CheckpointError(
            "model_config.json: bottleneck.config.noise_augment_dim is set, and no released model uses it"
        )
    inner = block.into("pretransform")
    inner.choice("type", ("patched",), None)
    patch = inner.into("config").count("patch_size")
    if not patch:
        raise CheckpointError("model_config.json: the autoencoder's patch_size is 0")
    encoder = _resampler(block.into("encoder"), decoder=False)
    decoder = _resampler(block.into("decoder"), decoder=True)
    if encoder.stride != decoder.stride:
        raise CheckpointError("model_config.json: encoder and decoder strides differ")
    config = AutoencoderConfig(
        sample_rate=rate,
        channels=block.count("io_channels", channels),
        latent_channels=block.count("latent_dim"),
        patch=patch,
        encoder=encoder,
        decoder=decoder,
        noise_regularize=bool(soft.block.get("noise_regularize", False)),
        chunked=chunked,
    )
    declared = block.count("downsampling_ratio", config.ratio)
    if declared != config.ratio:
        raise CheckpointError(
            f"model_config.json: downsampling_ratio is {declared}, but patch size {patch} times stride "
            f"{encoder.stride} is {config.ratio}"
        )
    return config


def _resampler(block: _Reader, *, decoder: bool) -> ResamplerConfig:
    block.choice("type", ("taae_v2", "same", None))
    c = block.into("config")
    c.absent("conformer", "layer_scale")
    if not c.block.get("dyt", True):
        raise CheckpointError(f"model_config.json: {c.where}.dyt is off, and no released model turns it off")
    depth, stride = c.one("transformer_depths"), c.one("strides")
    window = c.pair("sliding_window")
    sinusoidal = c.one("sinusoidal_blocks", 0) if c.block.get("sinusoidal_blocks") else 0
    width = c.count("channels", most=WIDEST // DEEPEST) * c.one("c_mults")
    head_dim = c.count("dim_heads")
    chunk = c.count("chunk_size", 32)
    if not stride or not head_dim or not width or width % head_dim:
        raise CheckpointError(f"model_config.json: {c.where}: {width} wide, {head_dim} per head, stride {stride}")
    if not window and (chunk % stride or chunk < stride):
        raise CheckpointError(f"model_config.json: {c.where}.chunk_size {chunk} is not a multiple of stride {stride}")
    return ResamplerConfig(
        width=width,
        depth=depth,
        head_dim=head_dim,
        stride=stride,
        ff_mult=c.positive("ff_mult", 3),
        differential=bool(c.block.get("differential", False)),
        window=window,
        chunk=chunk,
        midpoint_shift=bool(c.block.get("chunk_midpoint_shift", False)),
        kernel=3 if c.block.get("conv_mapping", False) else 1,
        sinusoidal_from=depth - sinusoidal + 1 if decoder and sinusoidal else depth,
        mask_noise=float(c.number("mask_noise", 0.0)),
    )


def _text(config: object, max_tokens: int, folder: str) -> TextConfig:
    whole = _Reader(config, "", "the text encoder's config.json")
    c = whole.into("encoder") if "encoder" in whole.block else whole
    c.choice("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    heads, scale = c.count("num_attention_heads"), c.number("query_pre_attn_scalar")
    if not heads or scale <= 0:
        raise CheckpointError(f"the text encoder's config.json: {heads} heads, queries scaled for {scale:g}")
    return TextConfig(
        vocab_size=c.count("vocab_size"),
        width=c.count("hidden_size"),
        depth=c.count("num_hidden_layers", most=DEEPEST),
        heads=heads,
        kv_heads=c.count("num_key_value_heads"),
        head_dim=c.count("head_dim"),
        ff_width=c.count("intermediate_size"),
        query_scale=scale**-0.5,
        logit_cap=c.number("attn_logit_softcapping") if c.block.get("attn_logit_softcapping") else 0.0,
        rope_theta=c.number("rope_theta", 10000.0),
        eps=c.number("rms_norm_eps", 1e-6),
        max_tokens=max_tokens,
        folder=folder,
    )
