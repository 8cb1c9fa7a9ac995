"""The router's state in Redis, shared by all workers: one round trip a question.

Where Redis cannot be reached the answer comes from `LocalState`, which may use only a share of
each rate limit (a limit that silently became one per process would be no limit). Every such answer
is counted; Redis is tried again after RETRY_SECONDS.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
from redis import Redis, RedisError

from tasks.breakers import PREFIX, BreakerStatus, read_breakers, target_key
from workers.router.local_state import LocalState
from workers.router.targets import (
    CHANGES,
    REASONS,
    Admission,
    Ask,
    BreakerPolicy,
    Change,
    Outcome,
    Passed,
    Target,
)

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LUA = Path(__file__).with_name("lua")


class SharedState:
    """Implements `RouterState` on Redis."""

    def __init__(
        self,
        client: Redis,
        policy: BreakerPolicy | None = None,
        *,
        prefix: str = PREFIX,
        local_share: float = 0.25,
        on_fallback: Callable[[], None] = lambda: None,
        clock_ms: Callable[[], int] | None = None,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),
    ) -> None:
        """`client` bounds how long a lost Redis delays a call (see tasks/redis_client.py).

        `on_fallback` is called for each question answered without Redis. `clock_ms` replaces the
        Redis server's clock.
        """
        self._client = client
        self._policy = policy or BreakerPolicy()
        self._prefix = prefix
        self._on_fallback = on_fallback
        self._clock_ms = clock_ms
        self._jitter = jitter
        self._local = LocalState(self._policy, share=local_share)
        self._admit = client.register_script((LUA / "admit.lua").read_text())
        self._record = client.register_script((LUA / "record.lua").read_text())
        self._policy_fields = {
            name: getattr(self._policy, name) for name in BreakerPolicy.__dataclass_fields__
        }
        self._lost_until = 0.0  # time.monotonic()
        self._lost_lock = threading.Lock()

    def admit(self, ask: Ask) -> Admission:
        """See `RouterState.admit`."""
        keys = [key for target in ask.targets for key in self._keys(target)]
        fields: dict[str, Any] = {
            "token": ask.token,
            "lease_ms": ask.lease_ms,
            "probe_ms": self._policy.probe_ms,
            "tokens": ask.tokens,
            "order": ask.order,
            "dry": ask.dry,
            "candidates": [
                {"rpm": target.limit.rpm or 0, "tpm": target.limit.tpm or 0}
                for target in ask.targets
            ],
        }
        reply = self._run(self._admit, keys, fields)
        if reply is None:
            return self._local.admit(ask)
        chosen, probe, *rest = cast("list[int]", reply)
        passed = tuple(
            Passed(ask.targets[i - 1], REASONS[reason - 1], wait / 1000)
            for i, reason, wait in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        )
        return Admission(ask.targets[chosen - 1] if chosen else None, bool(probe), passed)

    def record(self, outcome: Outcome) -> Change:
        """See `RouterState.record`."""
        if not outcome.shared:
            return self._local.record(outcome)
        fields = {
            "token": outcome.token,
            "probe": outcome.probe,
            "outcome": outcome.result,
            "latency_ms": outcome.latency_ms,
            "pause_ms": round(outcome.pause_ms),
            "refund": outcome.refund,
            "jitter": self._jitter(),
            "policy": self._policy_fields,
        }
        reply = self._run(self._record, self._keys(outcome.target), fields)
        # Where the answer is lost, the reservation's lease frees what it held.
        return "none" if reply is None else CHANGES[cast(int, reply)]

    def breaker(self, provider: str, model: str) -> BreakerStatus:
        """See `RouterState.breaker`."""
        if not self._lost():
            try:
                return read_breakers(self._client, [(provider, model)], self._prefix)[0]
            except RedisError as error:
                self._note_loss(error)
        return self._local.breaker(provider, model)

    def _keys(self, target: Target) -> list[str]:
        return [
            target_key(target.provider, target.model, self._prefix),
            f"{self._prefix}load:{target.key}",
            f"{self._prefix}rate:{target.bucket or target.key}",
        ]

    def _run(self, script: Any, keys: list[str], fields: dict[str, Any]) -> Any:
        if self._clock_ms is not None:
            fields["now"] = self._clock_ms()
        if not self._lost():
            try:
                return script(keys=keys, args=[orjson.dumps(fields)])
            except RedisError as error:
                self._note_loss(error)
        self._on_fallback()
        return None

    def _lost(self) -> bool:
        return time.monotonic() < self._lost_until

    def _note_loss(self, error: RedisError) -> None:
        with self._lost_lock:
            self._lost_until = time.monotonic() + RETRY_SECONDS
        logger.warning(
            "router state is local to this process",
            extra={"action": "router_state_lost", "error": type(error).__name__},
        )
