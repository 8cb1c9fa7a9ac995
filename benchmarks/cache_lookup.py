"""Time of one lookup (embed, search, verify) beside 100,000 entries, on one thread.

`python -m benchmarks.cache_lookup [PAIRS.csv.gz --split validate] [--entries 100000]`

The entries lie in the partition that is searched. Their vectors are random unit vectors; the
prompts looked up are those of PAIRS, or of `benchmarks/data/fresh_pairs.csv`, whose `a` is stored
as well, so that lookups have something to verify. Time grows with the length of the prompts, which
is told as `tokens`, the mean. `cpu_ms` is the processor time of a lookup, in this process
and in Redis: other work on the machine disturbs it least. `model_ms` is the median time to embed
one of the prompts and to verify one of the pairs, which tells how fast this processor is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis

from tasks.cache_policy import CachePolicy
from tasks.cache_rules import CacheRules
from tasks.exact_cache import Answer
from tasks.fingerprint import scope_of, tenant_pool
from tasks.inference import InferenceSubmission
from workers.cache.cache import SemanticCache
from workers.cache.embedding import load_embedder
from workers.cache.evaluate import PairRow, read_pairs
from workers.cache.scratch_redis import scratch_redis
from workers.cache.semantic import VECTOR, partition_of
from workers.cache.verifier import OnnxVerifier

PAIRS = Path(__file__).parent / "data" / "fresh_pairs.csv"


def fill(cache: SemanticCache, client: redis.Redis, entries: int, pool: str) -> None:
    """Put `entries` random documents into the partition of `pool`."""
    cache.index.create()
    scope = scope_of(InferenceSubmission(prompt="x"), pool=pool)
    partition = partition_of(scope, cache.embedder.build)
    rng = np.random.default_rng(1)
    for start in range(0, entries, 1000):
        vectors = rng.standard_normal((min(1000, entries - start), cache.embedder.width))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        with client.pipeline(transaction=False) as pipeline:
            for i, vector in enumerate(vectors):
                key = cache.index.document_key(f"random-{start + i}")
                pipeline.hset(key, mapping={"partition": partition, VECTOR: vector.tobytes()})
            pipeline.execute()


def _redis_seconds(client: redis.Redis) -> float:
    """Processor time that Redis has used, in seconds."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _median_ms(call: Callable[[PairRow], object], pairs: list[PairRow]) -> float:
    """Median time of `call` over `pairs`, in milliseconds."""
    times = []
    for pair in pairs:
        begun = time.perf_counter()
        call(pair)
        times.append((time.perf_counter() - begun) * 1000)
    return round(float(np.median(times)), 2)


def main() -> None:
    """Fill, look up, print percentiles in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, nargs="?", default=PAIRS)
    parser.add_argument("--split", help="only rows with this in their column `split`")
    parser.add_argument("--most", type=int, default=400, help="pairs")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    pool = tenant_pool("bench")
    with scratch_redis() as url, redis.Redis.from_url(url) as client:
        embedder, verifier = load_embedder(), OnnxVerifier()
        rules = CacheRules(CachePolicy(volatile=True))
        cache = SemanticCache(client, embedder, verifier, rules=rules)
        fill(cache, client, arguments.entries, pool)
        pairs = read_pairs(arguments.pairs, arguments.split)[: arguments.most]
        for pair in pairs:
            cache.cache_response(pair.a, Answer("answer", "bench", "bench"), pool=pool)
        times = []
        used = time.process_time(), _redis_seconds(client)
        for _ in range(arguments.rounds):
            for pair in pairs:
                begun = time.perf_counter()
                cache.get_similar_cached_response(pair.b, pool=pool)
                times.append((time.perf_counter() - begun) * 1000)
        here, there = time.process_time() - used[0], _redis_seconds(client) - used[1]
        p50, p95, p99 = np.percentile(times, [50, 95, 99])
        print(
            json.dumps(
                {
                    "entries": int(cache.index.info()["num_docs"]),
                    "lookups": len(times),
                    "tokens": round(
                        float(np.mean([cache.embedder.count_tokens(pair.b) for pair in pairs])), 1
                    ),
                    "ms": {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)},
                    "cpu_ms": {
                        "here": round(here * 1000 / len(times), 2),
                        "redis": round(there * 1000 / len(times), 2),
                    },
                    "model_ms": {
                        "embed": _median_ms(lambda pair: embedder.embed([pair.b]), pairs),
                        "verify": _median_ms(lambda pair: verifier.score(pair.a, pair.b), pairs),
                    },
                    "verdicts": cache.get_cache_stats()["vetoes"],
                }
            )
        )


if __name__ == "__main__":
    main()
