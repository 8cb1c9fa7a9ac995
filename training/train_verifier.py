"""Trains the verifier: `python -m training.train_verifier PAIRS.csv.gz --seed 1`.

A cross-encoder that starts from the packaged MiniLM weights and learns whether one answer serves
two prompts. One epoch over about 70,000 pairs; bfloat16 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from training.bert import CrossEncoder, load_minilm
from training.encode import MINILM, Encoded, batches, encode
from training.pairs import Pair, development_pairs, read_labelled, training_pairs
from workers.cache.alignment import TYPES_PER_SEGMENT

logger = logging.getLogger("training")
BATCH = 32
RATE = 1e-4
WARMUP = 0.06  # share of the steps
SMOOTHING = 0.03  # the labels of question pairs are wrong now and then


def new_model(seed: int) -> CrossEncoder:
    """MiniLM with a fresh head; the word and position embeddings stay as they are."""
    torch.manual_seed(seed)
    model = CrossEncoder(load_minilm(MINILM, types_per_segment=TYPES_PER_SEGMENT, noise=0.02))
    model.bert.words.weight.requires_grad_(False)
    model.bert.positions.weight.requires_grad_(False)
    return model


def train(model: CrossEncoder, data: list[Encoded], seed: int) -> None:
    """One epoch, linear warm-up and decay."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01, fused=True)
    steps = -(-len(data) // BATCH)
    warm = max(1, int(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    model.train()
    running, started = 0.0, time.monotonic()
    for step, (_, ids, types, mask, labels) in enumerate(
        batches(data, BATCH, np.random.default_rng(seed)), 1
    ):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, types, mask)
        targets = labels * (1 - 2 * SMOOTHING) + SMOOTHING
        loss = functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 50 == 0:
            logger.info(
                "training",
                extra={"step": step, "of": steps, "loss": running, "s": time.monotonic() - started},
            )
            print(
                f"{step}/{steps} loss {running:.3f} {time.monotonic() - started:.0f} s", flush=True
            )


@torch.inference_mode()
def scores(model: CrossEncoder, data: list[Encoded]) -> np.ndarray:
    """The probability that one answer serves both, for every pair in order."""
    model.eval()
    found = np.zeros(len(data))
    for group, ids, types, mask, _ in batches(data, 128, None):
        with torch.autocast("cpu", torch.bfloat16):
            found[group] = torch.sigmoid(model(ids, types, mask).float()).numpy()
    return found


def report(pairs: list[Pair], found: np.ndarray) -> dict[str, dict[str, float]]:
    """Recall and share of traps served at several bars, by kind of source."""
    same = np.array([pair.same for pair in pairs])
    kinds = np.array([":".join(pair.source.split(":")[:2]) for pair in pairs])
    table: dict[str, dict[str, float]] = {}
    for kind in [*sorted(set(kinds.tolist())), "all"]:
        chosen = np.ones(len(pairs), bool) if kind == "all" else kinds == kind
        for bar in (0.3, 0.5, 0.7, 0.9):
            row = table.setdefault(kind, {})
            if (chosen & same).any():
                row[f"recall@{bar}"] = round(float((found[chosen & same] >= bar).mean()), 3)
            if (chosen & ~same).any():
                row[f"traps@{bar}"] = round(float((found[chosen & ~same] >= bar).mean()), 3)
    return table


def main() -> None:
    """Train one seed and measure it on what it never saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("var/verifier"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    model = new_model(arguments.seed)
    train(
        model,
        encode(training_pairs(arguments.pairs, arguments.seed, arguments.scale)),
        arguments.seed,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.out / f"seed{arguments.seed}.pt")
    calibrate = random.Random(5).sample(read_labelled(arguments.pairs, "calibrate"), 3000)
    measured = {}
    for name, pairs in (("development", development_pairs(2000)), ("calibrate", calibrate)):
        measured[name] = report(pairs, scores(model, encode(pairs, as_served=True)))
    (arguments.out / f"seed{arguments.seed}.json").write_text(json.dumps(measured, indent=1))
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
