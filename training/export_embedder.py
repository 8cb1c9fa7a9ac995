"""Writes the int8 embedder: `python -m training.export_embedder PAIRS.csv.gz`.

The packaged all-MiniLM-L6-v2 weights become an ONNX graph, are quantised to int8, and are compared
with sentence-transformers on 1,000 texts. Nothing is written into the package when they disagree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from training.bert import load_minilm
from training.encode import MINILM
from training.onnx_graph import embedder_graph, save_int8
from training.pairs import read_labelled
from workers.cache.embedding import OnnxEmbedder

TARGET = Path("workers/cache/models/embedder")
LEAST_COSINE = 0.98  # of every text's int8 vector to its reference vector
LEAST_MEAN = 0.99


def reference(texts: list[str]) -> np.ndarray:
    """What sentence-transformers makes of `texts`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MINILM), device="cpu")
    return np.asarray(model.encode(texts, normalize_embeddings=True), np.float32)


def main() -> None:
    """Export, compare, and put the artefact in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    arguments = parser.parse_args()
    work = Path("var/embedder")
    save_int8(embedder_graph(load_minilm(MINILM)), work / "model.onnx")
    shutil.copy(MINILM / "tokenizer.json", work / "tokenizer.json")
    checksum = hashlib.sha256((work / "model.onnx").read_bytes()).hexdigest()
    card = {"name": "all-MiniLM-L6-v2-int8", "sha256": checksum, "max_tokens": 256, "width": 384}
    (work / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    pairs = read_labelled(arguments.pairs, "calibrate")[:500]
    texts = [text for pair in pairs for text in (pair.a, pair.b)]
    expected, got = reference(texts), OnnxEmbedder(work).embed(texts)
    agreement = (expected * got).sum(axis=1)
    near = (expected[::2] * expected[1::2]).sum(axis=1) >= 0.85
    near_got = (got[::2] * got[1::2]).sum(axis=1) >= 0.85
    figures = {
        "texts": len(texts),
        "cosine_mean": round(float(agreement.mean()), 5),
        "cosine_min": round(float(agreement.min()), 5),
        "decisions_flipped_at_0.85": round(float((near != near_got).mean()), 4),
    }
    print(json.dumps(figures))
    if agreement.min() < LEAST_COSINE or agreement.mean() < LEAST_MEAN:
        raise SystemExit("the int8 build does not agree with sentence-transformers")
    (work / "card.json").write_text(json.dumps(card | {"check": figures}, indent=1) + "\n")
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "tokenizer.json", "card.json"):
        shutil.copy(work / name, TARGET / name)


if __name__ == "__main__":
    main()
