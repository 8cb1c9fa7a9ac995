"""A plain re-implementation of BERT (Devlin et al. 2019), just large enough for MiniLM.

It loads the weights of the packaged sentence-transformers model. Written out rather than taken
from transformers because the verifier adds token types of its own, and because the ONNX graph in
`training/onnx_graph.py` is written operation by operation against this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class BertShape:
    """The sizes of all-MiniLM-L6-v2."""

    layers: int = 6
    width: int = 384
    heads: int = 12
    inner: int = 1536
    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2
    epsilon: float = 1e-12


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each followed by residual and layer norm.

    No dropout: of the 113,000 pairs that training reads, 9,000 are repeats.
    """

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.output = nn.Linear(shape.width, shape.width)
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)
        self.output_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """`hidden` (batch, length, width) and an additive `bias` (batch, 1, 1, length)."""
        batch, length, width = hidden.shape

        def split(states: Tensor) -> Tensor:
            return states.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(hidden)), split(self.key(hidden)), self.value(hidden)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + bias
        mixed = (scores.softmax(-1) @ split(value)).transpose(1, 2).reshape(batch, length, width)
        hidden = self.attention_norm(hidden + self.output(mixed))
        inner = functional.gelu(self.up(hidden))
        normed: Tensor = self.output_norm(hidden + self.down(inner))
        return normed


class Bert(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.types = nn.Embedding(shape.token_types, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layers = nn.ModuleList(BertLayer(shape) for _ in range(shape.layers))

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """`ids`, `types`, `mask`: (batch, length) integers; returns (batch, length, width)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.norm(self.words(ids) + self.positions(places) + self.types(types))
        bias = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * -1e4
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden


_LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


def load_minilm(directory: Path, *, types_per_segment: int = 1, noise: float = 0.0) -> Bert:
    """The packaged weights in a `Bert`.

    With `types_per_segment` > 1 each of the two segments gets that many token types, numbered
    segment by segment, all starting at the segment's own embedding plus `noise`.
    """
    stored = load_file(directory / "model.safetensors")
    model = Bert(BertShape(token_types=2 * types_per_segment))
    embeddings = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "positions.weight": stored["embeddings.position_embeddings.weight"],
        "norm.weight": stored["embeddings.LayerNorm.weight"],
        "norm.bias": stored["embeddings.LayerNorm.bias"],
    }
    base = stored["embeddings.token_type_embeddings.weight"]
    types = base.repeat_interleave(types_per_segment, dim=0)
    embeddings["types.weight"] = types + noise * torch.randn_like(types)
    layers = {
        f"layers.{index}.{ours}.{part}": stored[f"encoder.layer.{index}.{theirs}.{part}"]
        for index in range(model.shape.layers)
        for ours, theirs in _LAYER_NAMES.items()
        for part in ("weight", "bias")
    }
    model.load_state_dict(embeddings | layers)
    return model


class CrossEncoder(nn.Module):
    """Whether one answer serves both texts: one logit for a pair in one sequence.

    The head sees [CLS], and how the means of the two texts' tokens differ and agree. MiniLM was
    made to be averaged: its means carry what it knows of likeness from the first step on.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert
        self.dense = nn.Linear(3 * bert.shape.width, bert.shape.width)
        self.dropout = nn.Dropout(0.1)
        self.score = nn.Linear(bert.shape.width, 1)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """(batch, length) integers to (batch,) logits."""
        hidden = self.bert(ids, types, mask)
        second = types >= self.bert.shape.token_types // 2
        a, b = _mean(hidden, mask * ~second), _mean(hidden, mask * second)
        seen = torch.cat([hidden[:, 0], (a - b).abs(), a * b], dim=-1)
        combined = torch.tanh(self.dense(self.dropout(seen)))
        logits: Tensor = self.score(self.dropout(combined)).squeeze(-1)
        return logits


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)
