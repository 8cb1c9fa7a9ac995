"""A stream of requests as a product sees them, and what the cache makes of it.

`python -m benchmarks.cache_stream PAIRS.csv.gz --requests 12000 [--out STREAM.csv]`

Half of the clusters are questions that are labelled the same (split `calibrate`), with one answer
each; the other half are traps: questions labelled different, from each other or from one of those
clusters, each with an answer of its own. Clusters are drawn by Zipf(0.8), then a wording in its
cluster by Zipf(0.8) as well: people mostly repeat one wording. The text is Quora's: the stream is
made on your machine and not kept here.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np

from workers.cache.measuring import add_policy, add_shadow_rate, measured, policy_of, verifier_of
from workers.cache.replay import StreamRow, replay

EXPONENT = 0.8


def question_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """The labelled question pairs of the split `calibrate`: two questions, whether the same."""
    with gzip.open(path, "rt", newline="") as stream:
        return [
            (row["a"], row["b"], row["same"] == "1")
            for row in csv.DictReader(stream)
            if row["split"] == "calibrate" and row["source"] == "qqp"
        ]


def clusters(rows: list[tuple[str, str, bool]], count: int, seed: int) -> list[list[str]]:
    """`count` sets of wordings, each with one answer; half of the sets are traps."""
    parent: dict[str, str] = {}

    def find(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for one, other, same in rows:
        a, b = find(one), find(other)
        if same:
            parent[a] = b
    members: dict[str, list[str]] = {}
    for text in parent:
        members.setdefault(find(text), []).append(text)
    rng = np.random.default_rng(seed)
    with_paraphrases = [root for root, texts in members.items() if len(texts) > 1]
    rng.shuffle(with_paraphrases)
    chosen = dict.fromkeys(with_paraphrases[: count // 2])
    different = [(find(one), find(other)) for one, other, same in rows if not same]
    traps = [(a, b) for a, b in different if a != b]
    rng.shuffle(traps)
    # Those beside a chosen cluster first: few of the labels join a cluster to anything.
    traps.sort(key=lambda pair: not (pair[0] in chosen or pair[1] in chosen))
    for pair in traps:
        if len(chosen) >= count:
            break
        chosen.update(dict.fromkeys(pair))
    return [members[root] for root in list(chosen)[:count]]


def zipf(size: int) -> np.ndarray:
    """Probabilities of ranks 1 to `size`."""
    weights = np.arange(1, size + 1, dtype=float) ** -EXPONENT
    return weights / weights.sum()


def make_stream(groups: list[list[str]], requests: int, seed: int) -> list[StreamRow]:
    """`requests` draws from the clusters `groups`; an answer's name is its cluster's number."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    rows = []
    for rank in rng.choice(len(groups), size=requests, p=zipf(len(groups))):
        cluster = int(order[rank])
        texts = groups[cluster]
        rows.append(StreamRow(texts[int(rng.choice(len(texts), p=zipf(len(texts))))], str(cluster)))
    return rows


def labelled_different(
    rows: list[tuple[str, str, bool]], groups: list[list[str]]
) -> set[frozenset[str]]:
    """The pairs of answers of which a label says that they are different."""
    answer = {text: str(cluster) for cluster, texts in enumerate(groups) for text in texts}
    return {
        frozenset((answer[one], answer[other]))
        for one, other, same in rows
        if not same and one in answer and other in answer
    }


def main() -> None:
    """Make the stream, keep it if asked, replay it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--clusters", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    add_policy(parser)
    add_shadow_rate(parser)
    arguments = parser.parse_args()
    pairs = question_pairs(arguments.pairs)
    groups = clusters(pairs, arguments.clusters, arguments.seed)
    rows = make_stream(groups, arguments.requests, arguments.seed)
    if arguments.out:
        with arguments.out.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["prompt", "answer_id"])
            writer.writerows((row.prompt, row.answer_id) for row in rows)
    found = measured(
        parser,
        lambda: replay(
            rows,
            policy=policy_of(arguments),
            verifier=verifier_of(arguments),
            shadow_rate=arguments.shadow_rate,
        ),
    )
    different = labelled_different(pairs, groups)
    sure = sum(
        one["requests"]
        for one in found["wrong"]
        if frozenset((one["answer_id"], one["served_id"])) in different
    )
    # The rest of `wrong_rate` lies between clusters that no label compares.
    found["labelled_different_rate"] = sure / len(rows)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
