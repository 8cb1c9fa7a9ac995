"""Writes the committed verifier: `python -m training.export_verifier PAIRS.csv.gz --seed 1`.

The trained weights become an ONNX graph, are quantised to int8, and are compared with torch on
1,000 pairs that never trained. Nothing is written to `--out`, the package unless told otherwise,
when they disagree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from training.encode import encode
from training.onnx_graph import save_int8, verifier_graph
from training.pairs import Pair, development_pairs, read_labelled
from training.train_verifier import new_model, report, scores
from workers.cache.verifier import OnnxVerifier

TARGET = Path("workers/cache/models/verifier")
MOST_FLIPPED = 0.04  # of decisions at 0.5, int8 against torch


def main() -> None:
    """Export, compare, and put the artefact in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=Path("var/verifier"))
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = new_model(arguments.seed)
    model.load_state_dict(torch.load(arguments.weights / f"seed{arguments.seed}.pt"))
    model.eval()
    work = Path(f"var/verifier_int8/seed{arguments.seed}")
    save_int8(verifier_graph(model), work / "model.onnx")
    checksum = hashlib.sha256((work / "model.onnx").read_bytes()).hexdigest()
    card = {"name": "answer-sharing-verifier-int8", "sha256": checksum, "seed": arguments.seed}
    (work / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    pairs = development_pairs(600) + read_labelled(arguments.pairs, "calibrate")[:400]
    expected, got = scores(model, encode(pairs, as_served=True)), _served(OnnxVerifier(work), pairs)
    check = {
        "pairs": len(pairs),
        "mean_difference": round(float(np.abs(expected - got).mean()), 4),
        "decisions_flipped_at_0.5": round(float(((expected >= 0.5) != (got >= 0.5)).mean()), 4),
    }
    print(json.dumps(check))
    if check["decisions_flipped_at_0.5"] > MOST_FLIPPED:
        raise SystemExit("the int8 build does not agree with torch")
    card |= {"check": check, "development": report(pairs, got)["all"]}
    (work / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "card.json"):
        shutil.copy(work / name, arguments.out / name)


def _served(verifier: OnnxVerifier, pairs: list[Pair]) -> np.ndarray:
    return np.array([verifier.score(pair.a, pair.b) for pair in pairs])


if __name__ == "__main__":
    main()
