"""What a cosine threshold and a verifier bar cost: `python -m training.calibrate PAIRS.csv.gz`.

On question pairs of the split `calibrate` and on generated pairs from frames that never trained.
The bar that it prints as `chosen` is the product's default, by a rule that was fixed before any
validation row was scored by the models it is for: the least bar at which at most 7% of the traps
are served, of the question pairs labelled different and of the generated ones alike. The threshold
was chosen before that, on the stream of `benchmarks/cache_stream.py`: pairs say nothing about how
many near prompts a full cache holds.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.cache_policy import CachePolicy
from training.pairs import Pair, development_pairs, read_labelled
from workers.cache.embedding import Embedder, OnnxEmbedder
from workers.cache.slots import differ, read_slots
from workers.cache.verifier import OnnxVerifier

THRESHOLDS = (0.75, 0.78, 0.80, 0.82, 0.85, 0.90)
BARS = tuple(round(0.01 * step, 2) for step in range(20, 96))
MOST_TRAPS = 0.07


@dataclass(frozen=True)
class Measured:
    """What the cache would see of a set of pairs."""

    same: NDArray[np.bool_]
    cosine: NDArray[np.float32]
    vetoed: NDArray[np.bool_]  # by numbers, dates or identifiers
    score: NDArray[np.float64]

    def rates(self, threshold: float, bar: float) -> tuple[float, float]:
        """Recall and share of traps served."""
        served = (self.cosine >= threshold) & ~self.vetoed & (self.score >= bar)
        return float(served[self.same].mean()), float(served[~self.same].mean())


def measure(pairs: list[Pair], embedder: Embedder, verifier: OnnxVerifier) -> Measured:
    """Cosine, veto and score of every pair that a threshold of the grid could let through."""
    first = embedder.embed([pair.a for pair in pairs])
    second = embedder.embed([pair.b for pair in pairs])
    cosine = (first * second).sum(axis=1)
    score, vetoed = np.zeros(len(pairs)), np.zeros(len(pairs), bool)
    for i in np.flatnonzero(cosine >= min(THRESHOLDS)):
        vetoed[i] = differ(read_slots(pairs[i].a), read_slots(pairs[i].b)) is not None
        score[i] = verifier.score(pairs[i].a, pairs[i].b)
    return Measured(np.array([pair.same for pair in pairs]), cosine, vetoed, score)


def chosen(sets: dict[str, Measured], threshold: float) -> float:
    """The bar by the rule above; the strictest when none keeps to it."""
    for bar in BARS:
        if all(measured.rates(threshold, bar)[1] <= MOST_TRAPS for measured in sets.values()):
            return bar
    return max(BARS)


def main() -> None:
    """Print recall and traps served for a grid of thresholds and bars, and the bar chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--verifier", type=Path, default=None)
    parser.add_argument("--threshold", type=float, default=CachePolicy().threshold)
    arguments = parser.parse_args()
    embedder = OnnxEmbedder()
    verifier = OnnxVerifier(arguments.verifier) if arguments.verifier else OnnxVerifier()
    calibrate = random.Random(5).sample(read_labelled(arguments.pairs, "calibrate"), 5000)
    sets = {
        "calibrate": measure(calibrate, embedder, verifier),
        "development": measure(development_pairs(1500), embedder, verifier),
    }
    for name, measured in sets.items():
        print(
            json.dumps(
                {
                    "set": name,
                    "same": int(measured.same.sum()),
                    "different": int((~measured.same).sum()),
                }
            )
        )
        for threshold in THRESHOLDS:
            row: dict[str, object] = {"cosine": threshold}
            for bar in (0.0, *BARS[::5]):
                recall, traps = measured.rates(threshold, bar)
                row[f"bar {bar}" if bar else "vetoes only"] = f"{recall:.3f} / {traps:.4f}"
            print(json.dumps(row))
    bar = chosen(sets, arguments.threshold)
    rates = {name: measured.rates(arguments.threshold, bar) for name, measured in sets.items()}
    print(json.dumps({"chosen": {"cosine": arguments.threshold, "bar": bar}, **rates}))


if __name__ == "__main__":
    main()
