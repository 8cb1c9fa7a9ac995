"""What the cache would have done to a stream of requests whose right answers are known.

`python -m workers.cache.replay STREAM.csv[.gz] [--json]`
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis

from tasks.cache_policy import CachePolicy
from tasks.cache_rules import CacheRules
from tasks.exact_cache import Answer
from tasks.fingerprint import normalise, tenant_pool
from tasks.inference import InferenceSubmission
from tasks.intervals import wilson
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder, load_embedder
from workers.cache.measuring import (
    add_policy,
    add_shadow_rate,
    measured,
    policy_of,
    read_columns,
    verifier_of,
)
from workers.cache.scratch_redis import scratch_redis
from workers.cache.shadow import ShadowJudge, ShadowPolicy
from workers.cache.verifier import Verifier, load_verifier

MOST_SHOWN = 10  # wrong prompts, in the report for people
COST = 0.001  # US dollars an answer; the share saved does not depend on it


@dataclass(frozen=True)
class StreamRow:
    """One request and the name of the answer it should get."""

    prompt: str
    answer_id: str


def read_stream(path: Path) -> list[StreamRow]:
    """The rows of a CSV file with the columns prompt and answer_id; gzip by its suffix.

    Raises BadTable.
    """
    rows = read_columns(path, ("prompt", "answer_id"))
    return [StreamRow(row["prompt"], row["answer_id"]) for row in rows]


def replay(
    rows: Sequence[StreamRow],
    *,
    redis_url: str | None = None,
    policy: CachePolicy | None = None,
    embedder: Embedder | None = None,
    verifier: Verifier | None = None,
    shadow_rate: float = 0.0,
) -> dict[str, Any]:
    """Send every row through a cache that starts empty; a miss stores the row's own answer.

    Of the doubtful hits the share `shadow_rate` is judged as the product does it, with the row's
    answer for that of the provider, at the price of a call: a judge that never errs, without an
    hourly limit. At 0 nothing is judged, and the cache learns nothing about its errors.

    `exact_hit_rate` is what the exact layer alone would have hit; `wrong_rate` counts per request;
    `ideal_hit_rate` is that of a cache that knows the labels. `wrong` names the prompts that got
    another answer than theirs, whose answer it was, and for how many requests, most of them first:
    whether the cache is wrong there or the labels have a gap is for a reader to say.
    """
    with ExitStack() as stack:
        url = redis_url or stack.enter_context(scratch_redis())
        client = stack.enter_context(redis.Redis.from_url(url))
        cache = SemanticCache(
            client,
            embedder or load_embedder(),
            verifier or load_verifier(),
            prefix=f"replay:{time.time_ns()}",
            rules=CacheRules(replace(policy or CachePolicy(), volatile=True)),
        )
        judge = ShadowJudge(
            cache,
            client,
            cache.exact.prefix,
            policy=ShadowPolicy(rate=shadow_rate, calls_per_hour=len(rows)),
            draw=random.Random(0).random,
            compare=str.__eq__,
        )
        pool = tenant_pool("replay")
        by_layer = {"exact": 0, "semantic": 0}
        wrong: Counter[tuple[StreamRow, str, str]] = Counter()
        milliseconds: list[float] = []
        seen_texts: set[str] = set()
        exact_only = 0
        for row in rows:
            text = normalise(row.prompt)
            exact_only += text in seen_texts
            seen_texts.add(text)
            begun = time.perf_counter()
            lookup = cache.read(InferenceSubmission(prompt=row.prompt), pool=pool)
            hit = cache.look_up([lookup])[0]
            milliseconds.append((time.perf_counter() - begun) * 1000)
            ask = partial(Answer, row.answer_id, "replay", "replay", cost=COST)
            if hit is None:
                cache.store_answer(lookup, ask())
                continue
            by_layer[hit.layer] += 1
            if hit.answer.text != row.answer_id:
                wrong[row, hit.prompt, hit.answer.text] += 1
            if judge.wants(hit, pool):
                judge.judge(hit, lookup, ask)
        stats = cache.get_cache_stats()
        bar = max(cache.rules.base.verifier_bar, cache.evidence.pool_bar(pool))
        cache.index.drop()
    total, hits = len(rows), sum(by_layer.values())
    judged = stats["shadow"]["judged"]
    ideal = total - len({row.answer_id for row in rows})
    p50, p95 = np.percentile(milliseconds, [50, 95]) if milliseconds else (0.0, 0.0)
    return {
        "requests": total,
        "hit_rate": hits / total if total else 0.0,
        "hit_rate_interval": list(wilson(hits, total)),
        "exact_hit_rate": exact_only / total if total else 0.0,
        "exact_hit_rate_interval": list(wilson(exact_only, total)),
        "wrong_rate": wrong.total() / total if total else 0.0,
        "wrong_rate_interval": list(wilson(wrong.total(), total)),
        "ideal_hit_rate": ideal / total if total else 0.0,
        "hits_by_layer": by_layer,
        "saved_cost_share": (stats["saved_cost"] / COST - judged) / total if total else 0.0,
        "shadow": {**stats["shadow"], "bar": bar},
        "vetoes": stats["vetoes"],
        "wrong": [
            {
                "prompt": row.prompt,
                "answer_id": row.answer_id,
                "served_from": stored,
                "served_id": served,
                "requests": count,
            }
            for (row, stored, served), count in wrong.most_common()
        ],
        "lookup_ms": {"p50": round(float(p50), 3), "p95": round(float(p95), 3)},
    }


def _lines(found: dict[str, Any]) -> str:
    """The report for people."""

    def share(name: str) -> str:
        low, high = found[f"{name}_interval"]
        return f"{found[name]:.2%} [{low:.2%}, {high:.2%}]"

    wrong = "".join(
        f"\n  {one['requests']} x {one['prompt']!r} served from {one['served_from']!r}"
        for one in found["wrong"][:MOST_SHOWN]
    )
    return (
        f"{found['requests']} requests\n"
        f"hits          {share('hit_rate')}\n"
        f"exact alone   {share('exact_hit_rate')}\n"
        f"ideal         {found['ideal_hit_rate']:.2%}\n"
        f"wrong         {share('wrong_rate')}\n"
        f"cost saved    {found['saved_cost_share']:.2%}, after {found['shadow']['judged']} calls "
        f"to judge hits\n"
        f"lookup        p50 {found['lookup_ms']['p50']:.1f} ms, "
        f"p95 {found['lookup_ms']['p95']:.1f} ms" + (f"\nmost often wrong:{wrong}" if wrong else "")
    )


def main() -> None:
    """Replay the stream of a file and print the report."""
    parser = argparse.ArgumentParser(prog="inferenceflow cache replay", description=__doc__)
    parser.add_argument("stream", type=Path, help="CSV with the columns prompt, answer_id")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_policy(parser)
    add_shadow_rate(parser)
    arguments = parser.parse_args()
    found = measured(
        parser,
        lambda: replay(
            read_stream(arguments.stream),
            policy=policy_of(arguments),
            verifier=verifier_of(arguments),
            shadow_rate=arguments.shadow_rate,
        ),
    )
    sys.stdout.write((orjson.dumps(found).decode() if arguments.json else _lines(found)) + "\n")


if __name__ == "__main__":
    main()
