"""Where the text encoder begins: a number means nearly what its neighbours mean.

Every number is a token, most of them are rare, and without this 117 BPM would say nothing of 118.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sa3_training.tokens import NUMBERS

NEAR, FAR = 1.5, 8.0  # numbers apart, over which rows are much alike, and somewhat
SHARES = (0.5, 0.35)  # of a row's power that it has in common with those near and far; the rest is its own
SEED = 17


@torch.no_grad()
def begin(embedding: Tensor, tokenizer: Tokenizer) -> None:
    """Sets the rows of embedding (tokens, width), and keeps the spread of their values."""
    ids = [tokenizer.token_to_id(str(number)) for number in NUMBERS]
    draw = torch.Generator().manual_seed(SEED)
    place = torch.arange(len(NUMBERS), dtype=torch.float32)
    rows = (1 - sum(SHARES)) ** 0.5 * torch.randn(len(NUMBERS), embedding.shape[1], generator=draw)
    for reach, share in zip((NEAR, FAR), SHARES, strict=True):
        near = torch.exp(-((place[:, None] - place) ** 2) / (2 * reach**2))
        near /= near.norm(dim=1, keepdim=True)
        rows += share**0.5 * near @ torch.randn(len(NUMBERS), embedding.shape[1], generator=draw)
    embedding[ids] = (rows * embedding.std()).to(embedding)
