"""What a cosine threshold and a verifier bar cost: `python -m training.calibrate PAIRS.csv.gz`.

On question pairs of the split `calibrate` and on generated pairs from frames that never trained.
The product's defaults were chosen from this table, before any validation row was looked at.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np

from training.pairs import development_pairs, read_labelled
from workers.cache.embedding import OnnxEmbedder
from workers.cache.slots import differ, read_slots
from workers.cache.verifier import OnnxVerifier


def main() -> None:
    """Print recall and traps served for a grid of thresholds and bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--verifier", type=Path, default=None)
    arguments = parser.parse_args()
    embedder = OnnxEmbedder()
    verifier = OnnxVerifier(arguments.verifier) if arguments.verifier else OnnxVerifier()
    sets = {
        "calibrate": random.Random(5).sample(read_labelled(arguments.pairs, "calibrate"), 3000),
        "development": development_pairs(1200),
    }
    for name, pairs in sets.items():
        first = embedder.embed([pair.a for pair in pairs])
        second = embedder.embed([pair.b for pair in pairs])
        cosine = (first * second).sum(axis=1)
        same = np.array([pair.same for pair in pairs])
        score = np.zeros(len(pairs))
        vetoed = np.zeros(len(pairs), bool)
        for i in np.flatnonzero(cosine >= 0.75):
            vetoed[i] = differ(read_slots(pairs[i].a), read_slots(pairs[i].b)) is not None
            score[i] = verifier.score(pairs[i].a, pairs[i].b)
        print(json.dumps({"set": name, "same": int(same.sum()), "different": int((~same).sum())}))
        for threshold in (0.75, 0.8, 0.85, 0.9, 0.95):
            near = cosine >= threshold
            row = {"cosine": threshold, "plain": _rates(near, same)}
            row["vetoed"] = _rates(near & ~vetoed, same)
            for bar in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
                row[f"bar {bar}"] = _rates(near & ~vetoed & (score >= bar), same)
            print(json.dumps(row))


def _rates(served: np.ndarray, same: np.ndarray) -> str:
    return f"{served[same].mean():.3f} / {served[~same].mean():.4f}"


if __name__ == "__main__":
    main()
