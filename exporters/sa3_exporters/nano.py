"""Makes `nano`, the miniature model that comes with the package: `python -m sa3_exporters.nano [FOLDER]`.

It has the structure of the small models, seeded random weights and a tokenizer of its own, so that everything can be
tried without a download. What it generates is noise.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as kinds
from tokenizers.trainers import BpeTrainer

from sa3_engines import config as configs
from sa3_engines import models
from sa3_engines.models import CONFIG, HERE, WEIGHTS
from sa3_exporters import build
from stable_audio_3 import checkpoint
from stable_audio_3.random_weights import random_tensor

SEED, VOCABULARY, MAX_TOKENS = 3, 2048, 64
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

WORDS = {
    "mood": "calm warm dark bright dreamy tense joyful melancholic gritty lush eerie playful epic intimate hypnotic "
    "nostalgic soft harsh mellow driving spacious raw tender ominous uplifting",
    "genre": "ambient techno house jazz blues rock metal folk classical orchestral hip-hop lo-fi trap dubstep reggae "
    "funk soul disco country synthwave cinematic bossa-nova drum-and-bass drone experimental",
    "instrument": "piano guitar bass drums violin cello flute trumpet saxophone harp organ synthesizer strings choir "
    "bells marimba vibraphone banjo accordion harmonica clarinet oboe tabla sitar kalimba percussion",
    "manner": "plucked bowed muted distorted reverberant dry filtered layered looping arpeggiated strummed sustained "
    "staccato swelling detuned pulsing syncopated crisp deep airy",
    "key": "C D E F G A B",
    "scale": "major minor",
    "thing": "rain thunder wind ocean river fire birds crickets dog cat car train engine door footsteps glass metal "
    "wood water crowd applause bell clock keyboard phone siren helicopter whistle laughter explosion",
    "doing": "falling rolling howling crashing flowing crackling singing chirping barking passing starting closing "
    "creaking breaking dripping ticking ringing humming buzzing fading approaching splashing rattling",
    "place": "forest city street beach cave kitchen station church stadium room desert tunnel garden harbour factory",
    "distance": "close distant nearby faint loud quiet",
}
TEMPLATES = (
    "{mood} {genre} with {manner} {instrument} and {instrument}, {number} BPM",
    "a {mood} {instrument} melody over {manner} {instrument}, {genre}, in {key} {scale}",
    "{genre} loop, {instrument}, {instrument}, {manner} {instrument}, {number} bpm",
    "{distance} {thing} {doing} in a {place}",
    "sound of {thing} {doing}, {distance}, with {thing} in the background",
    "{mood} {place} atmosphere, {thing} {doing}, {distance} {thing}",
    "solo {instrument}, {manner}, {mood}, recorded in a {place}",
    "high quality stereo field recording of {thing} {doing} at night",
)


def captions(count: int = 800) -> Iterator[str]:
    """The tokenizer's training text, the same every time."""
    draw = random.Random(SEED)
    words = {name: text.split() for name, text in WORDS.items()}
    for index in range(count):
        line = TEMPLATES[index % len(TEMPLATES)]
        for name, choices in words.items():
            while f"{{{name}}}" in line:
                line = line.replace(f"{{{name}}}", draw.choice(choices), 1)
        yield line.replace("{number}", str(draw.randrange(60, 181)))


def tokenizer() -> Tokenizer:
    """Byte-pair encoding of lower-cased words; what it does not know falls apart into bytes, so nothing is unknown."""
    trained = Tokenizer(kinds.BPE())
    _dress(trained)
    trained.train_from_iterator(
        captions(), BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL) - len(BYTES), show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *BYTES, *pieces))}
    merges = [(first, second) for first, second in model["merges"]]
    whole = Tokenizer(kinds.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    _dress(whole)
    return whole


def _dress(bare: Tokenizer) -> None:
    space = "▁"
    bare.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(space, prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    bare.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def config() -> dict[str, Any]:
    """The released small model's, with smaller numbers."""
    raw = models.read_json(HERE / "released" / "small.json")
    model = raw["model"]
    raw["sample_size"] = 216 * 4096  # 20 s
    raw["sa3_trained"] = False  # until it is: commands then say that what comes out is texture, not music
    model["io_channels"] = 64
    model["conditioning"]["cond_dim"] = 128
    prompt = model["conditioning"]["configs"][0]["config"]
    prompt |= {"max_length": MAX_TOKENS, "repo_id": "nano"}
    model["diffusion"]["config"] |= {
        "io_channels": 64,
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 2,
        "cond_token_dim": 128,
        "global_cond_dim": 128,
        "local_add_cond_dim": 65,
        "num_memory_tokens": 16,
    }
    autoencoder = model["pretransform"]["config"]
    autoencoder["latent_dim"] = autoencoder["bottleneck"]["config"]["dim"] = 64
    for half in ("encoder", "decoder"):
        autoencoder[half]["config"] |= {"channels": 64, "c_mults": [2], "transformer_depths": [4], "latent_dim": 64}
    return raw


def text_config() -> dict[str, Any]:
    raw = models.read_json(HERE / "released" / "t5gemma.json")
    raw["encoder"] |= {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
    }
    return raw


def write(folder: Path) -> None:
    """The checkpoint, in half precision; frequencies stay exact."""
    raw, raw_text = config(), text_config()
    parsed = configs.parse(raw, raw_text)
    assert parsed.text is not None
    text_folder = folder / parsed.text.folder
    text_folder.mkdir(parents=True, exist_ok=True)
    for path, value in ((folder / CONFIG, raw), (text_folder / "config.json", raw_text)):
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    (text_folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=False) + "\n", "utf-8")
    with torch.device("meta"):
        networks = checkpoint.build(parsed)
    tensors: dict[Path, dict[str, torch.Tensor]] = {folder / WEIGHTS: {}, text_folder / WEIGHTS: {}}
    for prefix, part in networks.parts():
        place = tensors[(text_folder if prefix == checkpoint.TEXT else folder) / WEIGHTS]
        for key, like in part.state_dict().items():
            tensor = random_tensor(prefix + key, like, SEED)
            place[prefix + key] = tensor if key.endswith("inv_freq") else tensor.half()
    for path, held in tensors.items():
        save_file(held, path)
        path.chmod(0o644)


def main(folder: Path) -> None:
    write(folder)
    source = models.from_folder(folder, name="nano")
    build.build(build.Recipe(source=source, out=folder.absolute(), precision=("exact",)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "nano")
