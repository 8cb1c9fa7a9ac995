"""The router's state in this process alone: what holds while Redis cannot be reached.

The rules are those of lua/admit.lua and lua/record.lua, step by step; a test runs both on the same
random histories and compares every answer.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.breakers import BreakerStatus, status_from
from workers.router.targets import (
    REASONS,
    Admission,
    Ask,
    BreakerPolicy,
    Change,
    Outcome,
    Passed,
    Target,
)

BURST_SHARE = 4  # a quarter of a minute's allowance may go at once
PROBE_WAIT_MS = 1_000


@dataclass
class _Target:
    until: float = 0.0
    probe: str = ""
    probe_until: float = 0.0
    pause: float = 0.0
    ewma: float = 0.0
    n: int = 0
    fails: int = 0
    ok: int = 0
    bad: int = 0
    since: float | None = None
    opens: int = 0
    closed_at: float = 0.0
    load: dict[str, float] = field(default_factory=dict)


@dataclass
class _Bucket:
    since: float
    requests: float | None = None
    tokens: float | None = None


class LocalState:
    """Implements `RouterState` with a dict and a lock."""

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        share: float = 1.0,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),
    ) -> None:
        """`share` is the part of every rate limit that this process may use by itself."""
        self._policy = policy or BreakerPolicy()
        self._share = share
        self._clock_ms = clock_ms
        self._jitter = jitter
        self._targets: dict[str, _Target] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def admit(self, ask: Ask) -> Admission:
        """See `RouterState.admit`."""
        with self._lock:
            now = self._clock_ms()
            passed: list[Passed] = []
            for target in self._ordered(ask, now):
                state = self._of(target)
                reason, wait = self._hindrance(target, state, ask.tokens, now)
                if wait > 0:
                    passed.append(Passed(target, REASONS[reason - 1], math.ceil(wait) / 1000))
                    continue
                probe = state.until > 0
                if not ask.dry:
                    self._reserve(target, state, ask, probe, now)
                return Admission(target, probe, tuple(passed), shared=False)
            return Admission(None, False, tuple(passed), shared=False)

    def _ordered(self, ask: Ask, now: float) -> list[Target]:
        def score(target: Target) -> float:
            state = self._of(target)
            if ask.order == "least_busy":
                return sum(1 for end in state.load.values() if end > now)
            return state.ewma if ask.order == "latency" else 0.0

        return sorted(ask.targets, key=score)

    def _of(self, target: Target) -> _Target:
        return self._targets.setdefault(target.key, _Target())

    def _hindrance(
        self, target: Target, state: _Target, tokens: int, now: float
    ) -> tuple[int, float]:
        """Reason (as in admit.lua) and wait in ms; a wait of 0 means none."""
        if state.until > now:
            return 1, state.until - now
        if state.until > 0 and state.probe_until > now:
            return 1, min(state.probe_until - now, PROBE_WAIT_MS)
        if state.pause > now:
            return 3, state.pause - now
        wait = 0.0
        bucket = self._buckets.get(target.bucket) or _Bucket(now)
        if target.limit.rpm:
            left, _, rate = self._left(target.limit.rpm, bucket.requests, now - bucket.since)
            wait = max(wait, (1 - left) / rate)
        if target.limit.tpm:
            left, burst, rate = self._left(target.limit.tpm, bucket.tokens, now - bucket.since)
            wait = max(wait, (min(tokens, burst) - left) / rate)
        return 2, wait

    def _left(self, limit: float, left: float | None, elapsed: float) -> tuple[float, float, float]:
        """What is left of a minute's allowance, its burst, and its flow a millisecond."""
        limit *= self._share
        burst = max(1.0, limit / BURST_SHARE)
        rate = (limit - burst + 1) / 60_000
        return (burst if left is None else min(burst, left + elapsed * rate)), burst, rate

    def _reserve(self, target: Target, state: _Target, ask: Ask, probe: bool, now: float) -> None:
        limit = target.limit
        if limit.rpm or limit.tpm:
            bucket = self._buckets.setdefault(target.bucket, _Bucket(now))
            elapsed = now - bucket.since
            if limit.rpm:
                bucket.requests = self._left(limit.rpm, bucket.requests, elapsed)[0] - 1
            if limit.tpm:
                bucket.tokens = self._left(limit.tpm, bucket.tokens, elapsed)[0] - ask.tokens
            bucket.since = now
        if probe:
            state.probe, state.probe_until = ask.token, now + self._policy.probe_ms
        state.load = {token: end for token, end in state.load.items() if end > now}
        state.load[ask.token] = now + ask.lease_ms

    def record(self, outcome: Outcome) -> Change:
        """See `RouterState.record`."""
        with self._lock:
            now = self._clock_ms()
            state = self._of(outcome.target)
            state.load.pop(outcome.token, None)
            bucket = self._buckets.get(outcome.target.bucket)
            if bucket is not None and bucket.tokens is not None:
                bucket.tokens += outcome.refund
            if outcome.pause_ms > 0:
                state.pause = now + outcome.pause_ms
            if outcome.result == "ok":
                old = state.ewma if state.n else outcome.latency_ms
                state.ewma = old * 0.8 + outcome.latency_ms * 0.2
                state.n += 1
            return self._move(state, outcome, now)

    def _move(self, state: _Target, outcome: Outcome, now: float) -> Change:
        policy = self._policy
        probing = state.until > 0 and state.probe == outcome.token
        if outcome.result == "released":
            if probing:
                state.probe, state.probe_until = "", 0.0
            return "none"
        if outcome.result in ("ok", "healthy"):
            if state.until > 0 and outcome.probe:
                state.until = state.probe_until = 0.0
                state.probe = ""
                state.fails = state.ok = state.bad = 0
                state.since, state.closed_at = None, now
                return "closed"
            if state.until == 0:
                self._turn_window(state, now)
                state.fails, state.ok = 0, state.ok + 1
                if state.opens and now - state.closed_at > 2 * policy.open_ms:
                    state.opens = 0
            return "none"
        if not probing and state.until > 0:
            return "none"
        self._turn_window(state, now)
        state.fails += 1
        state.bad += 1
        calls = state.ok + state.bad
        if (
            probing
            or outcome.result == "fatal"
            or state.fails >= policy.failures
            or (calls >= policy.min_calls and state.bad / calls >= policy.failure_rate)
        ):
            open_ms = min(policy.open_ms * 2 ** min(state.opens, 20), policy.max_open_ms)
            state.until = math.floor(now + open_ms * self._jitter())
            state.probe, state.probe_until = "", 0.0
            state.opens += 1
            state.ok, state.bad, state.since = 0, 0, now
            return "opened"
        return "none"

    def _turn_window(self, state: _Target, now: float) -> None:
        if state.since is None or now - state.since > self._policy.window_ms:
            state.ok, state.bad, state.since = 0, 0, now

    def breaker(self, provider: str, model: str) -> BreakerStatus:
        """See `RouterState.breaker`."""
        with self._lock:
            state = self._targets.get(f"{provider}/{model}", _Target())
            fields = {"until": state.until, "fails": state.fails, "opens": state.opens}
            return status_from(provider, model, fields, self._clock_ms(), shared=False)
