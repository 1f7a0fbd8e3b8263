"""diffusers' pipeline with random weights of a given size, timed. Run by itself; imports nothing of ours."""

import json
import resource
import sys
import time
from typing import Any


def build(c: dict[str, Any]) -> Any:
    import torch
    from diffusers import (  # pyright: ignore[reportMissingImports]
        AutoencoderSAME,
        FlowMatchEulerDiscreteScheduler,
        StableAudio3DiTModel,
        StableAudio3DurationEmbedder,
        StableAudio3Pipeline,
    )

    dit, decoder = c["dit"], c["decoder"]
    transformer = StableAudio3DiTModel(
        io_channels=dit["channels"],
        embed_dim=dit["width"],
        depth=dit["depth"],
        num_heads=dit["heads"],
        cond_token_dim=dit["context_width"],
        global_cond_dim=dit["global_width"],
        local_add_cond_dim=dit["local_width"],
        timestep_features_dim=dit["timestep_features"],
        ff_mult=dit["ff_mult"],
        num_memory_tokens=dit["memory_tokens"],
        use_differential_attention=dit["differential"],
    )
    vae = AutoencoderSAME(
        audio_channels=c["channels"],
        patch_size=c["patch"],
        encoder_channels=decoder["width"],
        encoder_c_mults=[1],
        encoder_strides=[decoder["stride"]],
        encoder_transformer_depths=[decoder["depth"]],
        latent_dim=dit["channels"],
        use_differential_attention=decoder["differential"],
        dim_heads=decoder["head_dim"],
        ff_mult=int(decoder["ff_mult"]),
        sampling_rate=c["rate"],
    )
    text, tokenizer = encoder(c["text"])
    seconds = StableAudio3DurationEmbedder(output_dim=dit["global_width"], max_val=c["seconds_max"])
    for module in (transformer, vae, text, seconds):
        module.eval()
        for parameter in module.parameters():
            parameter.data = torch.randn_like(parameter) * 0.02
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    return StableAudio3Pipeline(vae, text, tokenizer, seconds, transformer, scheduler)


def encoder(c: dict[str, Any]) -> tuple[Any, Any]:
    """T5Gemma of this size, and a tokenizer that gives a word an id: speed does not depend on which."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5GemmaConfig, T5GemmaEncoderModel, T5GemmaModuleConfig

    module = T5GemmaModuleConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["width"],
        intermediate_size=c["ff_width"],
        num_hidden_layers=c["depth"],
        num_attention_heads=c["heads"],
        num_key_value_heads=c["kv_heads"],
        head_dim=c["head_dim"],
        query_pre_attn_scalar=round(c["query_scale"] ** -2),
    )
    config = T5GemmaConfig(encoder=module, is_encoder_decoder=False, vocab_size=c["vocab_size"])
    made = Tokenizer(models.WordLevel({"[UNK]": 1, "[PAD]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", model_max_length=c["max_tokens"]
    )
    return T5GemmaEncoderModel(config), tokenizer


def main() -> None:
    wanted = json.loads(sys.argv[1])
    begun = time.perf_counter()
    import torch

    torch.manual_seed(0)
    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    device = ("cuda" if torch.cuda.is_available() else "cpu") if wanted["device"] == "auto" else wanted["device"]
    pipeline = build(wanted["config"]).to(device)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter() - begun

    def generate(steps: int) -> tuple[float, int]:
        start = time.perf_counter()
        audio = pipeline(
            [wanted["prompt"]] * wanted["batch"],
            duration=wanted["seconds"],
            num_inference_steps=steps,
            silence_padding_duration=wanted["padding"],
            generator=torch.Generator(device).manual_seed(wanted["seed"]),
            output_type="np",
        ).audios
        return time.perf_counter() - start, audio.shape[-1]

    generate(wanted["warmup_steps"])
    runs = []
    for _ in range(wanted["repeat"]):
        started = time.time()
        seconds, samples = generate(wanted["steps"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        runs.append({"generate": seconds, "samples": samples, "started": started, "peak_rss_mb": peak})
    if device.startswith("cuda"):
        runs[-1]["device_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    print(json.dumps({"runs": runs, "load": {"cold": loaded}, "device": device}))


main()
