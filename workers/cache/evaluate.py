"""How often the cache finds true repeats and how often it falls for traps, on labelled pairs.

`python -m workers.cache.evaluate PAIRS.csv[.gz] [--json]`

Every pair gets a pool of its own; `a` is stored and `b` is looked up, through the cache that
serves requests. The baselines see the same vectors through the same index.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis

from tasks.cache_policy import CachePolicy
from tasks.cache_rules import CacheRules
from tasks.exact_cache import Answer
from tasks.fingerprint import tenant_pool
from tasks.inference import InferenceSubmission
from tasks.intervals import wilson
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder, load_embedder
from workers.cache.measuring import add_policy, measured, policy_of, read_columns, verifier_of
from workers.cache.scratch_redis import scratch_redis
from workers.cache.semantic import partition_of
from workers.cache.verifier import Verifier, load_verifier

# redisvl's SemanticCache: distance_threshold=0.1, which is a cosine similarity of 0.90.
BASELINES = {"cosine_0.85": 0.85, "cosine_0.95": 0.95, "redisvl_default": 0.90}
CHUNK = 500


@dataclass(frozen=True)
class PairRow:
    """Two prompts and whether one answer serves both."""

    a: str
    b: str
    same: bool
    source: str


@dataclass(frozen=True)
class _Outcome:
    row: PairRow
    hit: bool
    similarity: float  # cosine, through the index


def read_pairs(path: Path, split: str | None = None) -> list[PairRow]:
    """The rows of a CSV file with the columns a, b, same and source; gzip by its suffix.

    Without the column `source` all rows are of the source `all`. With `split` only the rows that
    have it in their column `split`. Raises BadTable.
    """
    rows = read_columns(path, ("a", "b", "same") if split is None else ("a", "b", "same", "split"))
    return [
        PairRow(row["a"], row["b"], row["same"] == "1", row.get("source") or "all")
        for row in rows
        if split is None or row["split"] == split
    ]


def evaluate(
    rows: Sequence[PairRow],
    *,
    redis_url: str | None = None,
    policy: CachePolicy | None = None,
    embedder: Embedder | None = None,
    verifier: Verifier | None = None,
) -> dict[str, Any]:
    """Recall and false hits by source, lookup times, and the same for the baselines.

    Without `redis_url` a Redis is started for the measurement. Prompts that depend on time or
    person are not left out here (`volatile`): what is measured is which prompts are told apart.
    """
    with ExitStack() as stack:
        url = redis_url or stack.enter_context(scratch_redis())
        client = stack.enter_context(redis.Redis.from_url(url))
        cache = SemanticCache(
            client,
            embedder or load_embedder(),
            verifier or load_verifier(),
            prefix=f"evaluate:{time.time_ns()}",
            rules=CacheRules(replace(policy or CachePolicy(), volatile=True)),
        )
        lookup_ms: list[float] = []
        search_ms: list[float] = []
        outcomes: list[_Outcome] = []
        for start in range(0, len(rows), CHUNK):
            outcomes += _measure(cache, rows[start : start + CHUNK], start, lookup_ms, search_ms)
        if outcomes:
            cache.index.drop()
        return {
            "threshold": cache.rules.base.threshold,
            "verifier_bar": cache.rules.base.verifier_bar,
            "embedder": cache.embedder.build,
            "verifier": cache.verifier.build if cache.verifier else None,
            "sources": _by_source(outcomes, None),
            "lookup_ms": _percentiles(lookup_ms),
            "baselines": {
                name: {"sources": _by_source(outcomes, bar), "lookup_ms": _percentiles(search_ms)}
                for name, bar in BASELINES.items()
            },
        }


def _measure(
    cache: SemanticCache,
    rows: Sequence[PairRow],
    start: int,
    lookup_ms: list[float],
    search_ms: list[float],
) -> list[_Outcome]:
    pools = [tenant_pool(f"pair-{start + i}") for i in range(len(rows))]
    vectors = cache.embedder.embed([row.a for row in rows])
    for row, pool, vector in zip(rows, pools, vectors, strict=True):
        cache.cache_response(row.a, Answer("answer", "evaluate", "evaluate"), vector, pool=pool)
    outcomes = []
    for row, pool in zip(rows, pools, strict=True):
        begun = time.perf_counter()
        hit = cache.get_similar_cached_response(row.b, pool=pool)
        lookup_ms.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        similarity = _similarity(cache, row.b, pool)
        search_ms.append((time.perf_counter() - begun) * 1000)
        outcomes.append(_Outcome(row, hit is not None, similarity))
    return outcomes


def _similarity(cache: SemanticCache, text: str, pool: str) -> float:
    lookup = cache.read(InferenceSubmission(prompt=text), pool=pool)
    partition = partition_of(lookup.scope, cache.embedder.build)
    near = cache.index.nearest([(partition, cache.embedder.embed([text])[0])])[0]
    return near[0].similarity if near else 0.0


def _by_source(outcomes: Iterable[_Outcome], bar: float | None) -> dict[str, Any]:
    """`bar` is a baseline's cosine; None means what the cache itself did."""
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for outcome in outcomes:
        hit = outcome.hit if bar is None else outcome.similarity >= bar
        source = outcome.row.source
        # A category (`fow:negation`) counts for itself and for its source.
        for name in dict.fromkeys((source, source.split(":", 1)[0])):
            groups.setdefault(name, []).append((outcome.row.same, hit))
    return {name: _rates(pairs) for name, pairs in sorted(groups.items())}


def _rates(pairs: list[tuple[bool, bool]]) -> dict[str, Any]:
    same = [hit for is_same, hit in pairs if is_same]
    different = [hit for is_same, hit in pairs if not is_same]
    rates: dict[str, Any] = {"n_same": len(same), "n_different": len(different)}
    for name, hits in (("recall", same), ("false_hit_rate", different)):
        rates[name] = sum(hits) / len(hits) if hits else None
        rates[f"{name}_interval"] = list(wilson(sum(hits), len(hits)))
    return rates


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p95": 0.0}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def _table(found: dict[str, Any]) -> str:
    """The report for people: one line a source, then the baselines."""
    lines = [f"{'source':32} {'same':>6} {'other':>6} {'recall':>18} {'traps served':>20}"]
    baselines = {name: baseline["sources"] for name, baseline in found["baselines"].items()}
    for title, sources in {"": found["sources"], **baselines}.items():
        lines += [title] if title else []
        for name, rates in sources.items():
            lines.append(
                f"{name[:32]:32} {rates['n_same']:6} {rates['n_different']:6} "
                f"{_share(rates, 'recall'):>18} {_share(rates, 'false_hit_rate'):>20}"
            )
    times = found["lookup_ms"]
    lines.append(f"lookup: p50 {times['p50']:.1f} ms, p95 {times['p95']:.1f} ms")
    return "\n".join(lines)


def _share(rates: dict[str, Any], name: str) -> str:
    if rates[name] is None:
        return "-"
    low, high = rates[f"{name}_interval"]
    return f"{rates[name]:.3f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Measure the pairs of a file and print the report."""
    parser = argparse.ArgumentParser(prog="inferenceflow cache evaluate", description=__doc__)
    parser.add_argument("pairs", type=Path, help="CSV with the columns a, b, same, source")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--split", help="only rows with this value in their column split")
    add_policy(parser)
    arguments = parser.parse_args()
    found = measured(
        parser,
        lambda: evaluate(
            read_pairs(arguments.pairs, arguments.split),
            policy=policy_of(arguments),
            verifier=verifier_of(arguments),
        ),
    )
    sys.stdout.write((orjson.dumps(found).decode() if arguments.json else _table(found)) + "\n")


if __name__ == "__main__":
    main()
