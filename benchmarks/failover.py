"""One provider answers 500, one hangs, one is healthy: do all calls succeed, and how fast?

    python -m benchmarks.failover [--calls 500] [--threads 16]

Starts its own Redis and three HTTP servers. Prints JSON: successes, the latency that failing over
adds once the circuits are open (against calls to the healthy provider alone, one for each, mixed in
with them so that both see the same machine), the
share of calls that still reach a broken provider then, and what becomes of a half-open circuit
whose prober is killed. Exits 1 if an acceptance limit is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from config.catalogue import Catalogue, ProviderConfig
from tasks.inference import InferenceSubmission
from tasks.redis_client import connect
from tests.fakes.provider import FakeProvider
from tests.redis_server import redis_server
from workers.providers.base import CallLimits
from workers.providers.registry import build_providers
from workers.router import BreakerPolicy, Router, SharedState

HEALTHY_SECONDS = 0.05
FIRST_BYTE_SECONDS = 1.0
DEADLINE_SECONDS = 30.0
OPEN_MS = 500  # the default is 10,000; short, so that probes happen within the run
BROKEN = ("failing", "hanging")


@dataclass(frozen=True)
class Result:
    """One call."""

    ok: bool
    seconds: float
    ended: float
    tried: tuple[str, ...]


def catalogue(urls: dict[str, str]) -> Catalogue:
    """Three providers of one model each, the broken ones preferred."""
    return Catalogue.model_validate(
        {
            "providers": {n: {"kind": "openai_compatible", "base_url": u} for n, u in urls.items()},
            "models": [
                {
                    "id": f"m-{name}",
                    "offers": [{"provider": name, "model": "m"}],
                    "context_window": 8000,
                    "max_output": 1000,
                    "tier": "small",
                    "price": {"input": 1, "output": 1},
                }
                for name in urls
            ],
            "routes": {
                "all": {"strategy": "priority", "candidates": [{"model": f"m-{n}"} for n in urls]},
                "healthy": {"candidates": [{"model": "m-healthy"}]},
            },
        }
    )


def router(urls: dict[str, str], redis_url: str, policy: BreakerPolicy) -> Router:
    """A router as a worker has one."""
    book = catalogue(urls)
    return Router(
        book,
        build_providers(book, {name: ProviderConfig() for name in urls}),
        SharedState(connect(redis_url), policy),
    )


def one(routing: Router, route: str, number: int) -> Result:
    """One call through the router."""
    submission = InferenceSubmission(prompt=f"call {number}", model_preference=route)
    limits = CallLimits(time.monotonic() + DEADLINE_SECONDS, first_byte_seconds=FIRST_BYTE_SECONDS)
    started = time.monotonic()
    plan = routing.route_request(submission)
    completion, attempts = routing.call(plan, limits=limits)
    ended = time.monotonic()
    tried = tuple(a.provider for a in attempts if a.status not in ("circuit_open", "rate_limited"))
    return Result(completion.text == f"call {number}", ended - started, ended, tried)


def many(routing: Router, routes: list[str], threads: int) -> list[Result]:
    """One call for each route named, from many threads at once, in that order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda i: one(routing, routes[i], i), range(len(routes))))


def probe_and_die(urls: dict[str, str], redis_url: str, policy: BreakerPolicy) -> None:
    """Run as a process: call the hanging provider as its prober, until killed."""
    one(router(urls, redis_url, policy), "all", 0)


def killed_prober(urls: dict[str, str], redis_url: str, hanging: FakeProvider) -> dict[str, object]:
    """Kill a process during its probe; when does the next probe close the circuit?"""
    policy = BreakerPolicy(failures=1, open_ms=300)
    only = {"hanging": urls["hanging"], "healthy": urls["healthy"]}
    routing = router(only, redis_url, policy)
    one(routing, "all", 0)
    state = routing.check_circuit_breaker("hanging", "m")
    while state.state != "half_open":
        time.sleep(0.02)
        state = routing.check_circuit_breaker("hanging", "m")
    before = hanging.count
    process = multiprocessing.get_context("spawn").Process(
        target=probe_and_die, args=(only, redis_url, policy)
    )
    process.start()
    while hanging.count == before:
        time.sleep(0.01)
    process.kill()
    process.join()
    killed = time.monotonic()
    hanging.behave()  # healthy again
    while routing.check_circuit_breaker("hanging", "m").state != "closed":
        one(routing, "all", 1)
        time.sleep(0.05)
    return {
        "killed_by": signal.Signals(-(process.exitcode or 0)).name,
        "closed_after_seconds": round(time.monotonic() - killed, 2),
        "probe_lease_seconds": policy.probe_ms / 1000,
    }


def main() -> int:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--threads", type=int, default=16)
    given = parser.parse_args()
    with (
        redis_server() as (redis_url, _),
        FakeProvider() as failing,
        FakeProvider() as hanging,
        FakeProvider() as healthy,
    ):
        failing.behave(mode="status", status=500)
        hanging.behave(mode="hang")
        healthy.behave(latency=HEALTHY_SECONDS)
        urls = {"failing": failing.url, "hanging": hanging.url, "healthy": healthy.url}
        routing = router(urls, redis_url, BreakerPolicy(open_ms=OPEN_MS))
        results = many(routing, ["all"] * given.calls, given.threads)
        # Open from the moment when the last circuit opened, which the first calls brought about.
        opened = min(r.ended for r in results if not set(r.tried) & set(BROKEN))
        after = [r for r in results if r.ended - r.seconds >= opened]
        mixed = many(routing, ["all", "healthy"] * given.calls, given.threads)
        again, alone = mixed[::2], mixed[1::2]
        steady = after + again
        to_broken = sum(bool(set(r.tried) & set(BROKEN)) for r in steady)
        with_broken = _quantiles([r.seconds for r in again])
        without = _quantiles([r.seconds for r in alone])
        added = with_broken["p95"] - without["p95"]
        report = {
            "calls": given.calls * 2,
            "succeeded": sum(r.ok for r in results + again),
            "calls_after_opening": len(steady),
            "still_to_broken": to_broken,
            "still_to_broken_percent": round(100 * to_broken / len(steady), 2),
            "p95_added_ms": round(added, 1),
            "latency_ms": with_broken,
            "latency_of_healthy_alone_ms": without,
            "slowest_before_opening_ms": round(max(r.seconds for r in results) * 1000),
            "killed_prober": killed_prober(urls, redis_url, hanging),
        }
    print(json.dumps(report, indent=2))
    passed = (
        report["succeeded"] == report["calls"] and to_broken <= 0.01 * len(steady) and added < 50
    )
    return 0 if passed else 1


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(seconds, n=100)
    return {name: round(1000 * cut[at - 1], 1) for name, at in (("median", 50), ("p95", 95))}


if __name__ == "__main__":
    sys.exit(main())
