"""Trains the verifier: `python -m training.train_verifier PAIRS.csv.gz --seed 1`.

A cross-encoder that starts from the packaged MiniLM weights and learns whether one answer serves
two prompts. In two stages under one learning rate that rises and falls: 49,000 pairs of every kind,
then 64,000, of which labelled questions are a smaller part and generated prompts, of many more
subjects, the greater one.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from training.bert import CrossEncoder, load_minilm
from training.encode import MINILM, Encoded, batches, encode
from training.pairs import (
    FRAMES,
    PROMPTS,
    Pair,
    development_pairs,
    read_labelled,
    training_pairs,
)
from workers.cache.alignment import TYPES_PER_SEGMENT

BATCH = 32
RATE = 1e-4
WARMUP = 0.06  # share of the steps
SECOND = 64_000  # pairs of the second stage
SMOOTHING = 0.03  # the labels of question pairs are wrong now and then


def new_model(seed: int) -> CrossEncoder:
    """MiniLM with a fresh head; the word and position embeddings stay as they are."""
    torch.manual_seed(seed)
    model = CrossEncoder(load_minilm(MINILM, types_per_segment=TYPES_PER_SEGMENT, noise=0.02))
    model.bert.words.weight.requires_grad_(False)
    model.bert.positions.weight.requires_grad_(False)
    return model


def stages(path: Path, seed: int) -> list[list[Pair]]:
    """What is learned first, and what then."""
    first = training_pairs(path, seed, 0.6, files=FRAMES)
    second = training_pairs(path, seed + 100, 0.5, files=FRAMES + PROMPTS, grammar_share=4.0)
    return [first, second[:SECOND]]


def train(
    model: CrossEncoder, data: list[list[Encoded]], seed: int, precision: torch.dtype
) -> None:
    """Every stage once, linear warm-up and decay over all of them."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01, fused=True)
    steps = sum(-(-len(stage) // BATCH) for stage in data)
    warm = max(1, int(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    model.train()
    running, started = 0.0, time.monotonic()
    drawn = (
        batch
        for index, stage in enumerate(data)
        for batch in batches(stage, BATCH, np.random.default_rng(seed + 100 * index))
    )
    for step, (_, ids, types, mask, labels) in enumerate(drawn, 1):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
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
            print(
                f"{step}/{steps} loss {running:.3f} {time.monotonic() - started:.0f} s", flush=True
            )


@torch.inference_mode()
def scores(model: CrossEncoder, data: list[Encoded]) -> np.ndarray:
    """The probability that one answer serves both, for every pair in order."""
    model.eval()
    found = np.zeros(len(data))
    for group, ids, types, mask, _ in batches(data, 128, None):
        found[group] = torch.sigmoid(model(ids, types, mask)).numpy()
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
    parser.add_argument(
        "--bfloat16", action="store_true", help="four times as fast, where the processor has it"
    )
    parser.add_argument("--out", type=Path, default=Path("var/verifier"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    model = new_model(arguments.seed)
    data = [encode(stage) for stage in stages(arguments.pairs, arguments.seed)]
    train(model, data, arguments.seed, torch.bfloat16 if arguments.bfloat16 else torch.float32)
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
