"""nano's own tokenizer: byte-pair encoding of lower-cased words, learned from the corpus' captions.

A number is one token: spelled out in digits, a tempo would have to be put together again by a text encoder of two
layers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as kinds
from tokenizers.trainers import BpeTrainer

from sa3_training.captions import FASTEST, SLOWEST

VOCABULARY, MAX_TOKENS = 1024, 64
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CAPTIONS = 20_000  # to learn from
NUMBERS = range(SLOWEST, FASTEST + 1)  # tempos
OFTEN = 300  # that a number is shown, so that all of them are learned


def learn(captions: Iterable[str]) -> Tokenizer:
    """What it does not know falls apart into bytes, so nothing is unknown."""
    trained = Tokenizer(kinds.BPE())
    _dress(trained)
    trained.train_from_iterator(
        itertools.chain(captions, (" ".join(map(str, NUMBERS)) for _ in range(OFTEN))),
        BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL) - len(BYTES), show_progress=False),
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
            pre_tokenizers.Digits(individual_digits=False),
        ]
    )
    bare.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def table(tokenizer: Tokenizer, captions: Sequence[str]) -> np.ndarray:
    """(captions, MAX_TOKENS), zero where there is none: as the pipeline pads them."""
    ids = np.zeros((len(captions), MAX_TOKENS), np.int16)
    for row, encoded in enumerate(tokenizer.encode_batch(list(captions), add_special_tokens=False)):
        cut = encoded.ids[:MAX_TOKENS]
        ids[row, : len(cut)] = cut
    return ids
