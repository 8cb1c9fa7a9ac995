"""A stream of requests as a product sees them, and what the cache makes of it.

`python -m benchmarks.cache_stream PAIRS.csv.gz --requests 12000 [--out STREAM.csv]`

Questions that are labelled the same (split `calibrate`) form clusters with one answer each, and a
question with a labelled-different partner brings that partner along, as a trap. Clusters are drawn
by Zipf(0.8), then a wording in its cluster by Zipf(0.8) as well: people mostly repeat one wording.
The text is Quora's: the stream is made on your machine and not kept here.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np

from workers.cache.measuring import add_policy, measured, policy_of, verifier_of
from workers.cache.replay import StreamRow, replay

EXPONENT = 0.8


def clusters(path: Path, count: int, seed: int) -> list[list[str]]:
    """`count` sets of wordings, each with one answer; half of the sets come as trap partners."""
    with gzip.open(path, "rt", newline="") as stream:
        rows = [
            r for r in csv.DictReader(stream) if r["split"] == "calibrate" and r["source"] == "qqp"
        ]
    parent: dict[str, str] = {}

    def find(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in rows:
        a, b = find(row["a"]), find(row["b"])
        if row["same"] == "1":
            parent[a] = b
    members: dict[str, list[str]] = {}
    for text in parent:
        members.setdefault(find(text), []).append(text)
    rng = np.random.default_rng(seed)
    with_paraphrases = [root for root, texts in members.items() if len(texts) > 1]
    rng.shuffle(with_paraphrases)
    partners: dict[str, list[str]] = {}
    for row in rows:
        if row["same"] == "0":
            a, b = find(row["a"]), find(row["b"])
            if a != b:
                partners.setdefault(a, []).append(b)
                partners.setdefault(b, []).append(a)
    chosen: dict[str, None] = {}
    for root in with_paraphrases:
        if len(chosen) >= count:
            break
        chosen[root] = None
        for partner in partners.get(root, [])[:1]:
            chosen[partner] = None
    return [members[root] for root in list(chosen)[:count]]


def zipf(size: int) -> np.ndarray:
    """Probabilities of ranks 1 to `size`."""
    weights = np.arange(1, size + 1, dtype=float) ** -EXPONENT
    return weights / weights.sum()


def make_stream(path: Path, requests: int, groups: int, seed: int) -> list[StreamRow]:
    """`requests` draws from `groups` clusters."""
    found = clusters(path, groups, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found))
    rows = []
    for rank in rng.choice(len(found), size=requests, p=zipf(len(found))):
        cluster = int(order[rank])
        texts = found[cluster]
        rows.append(StreamRow(texts[int(rng.choice(len(texts), p=zipf(len(texts))))], str(cluster)))
    return rows


def main() -> None:
    """Make the stream, keep it if asked, replay it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--clusters", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    add_policy(parser)
    arguments = parser.parse_args()
    rows = make_stream(arguments.pairs, arguments.requests, arguments.clusters, arguments.seed)
    if arguments.out:
        with arguments.out.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["prompt", "answer_id"])
            writer.writerows((row.prompt, row.answer_id) for row in rows)
    found = measured(
        parser,
        lambda: replay(rows, policy=policy_of(arguments), verifier=verifier_of(arguments)),
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
