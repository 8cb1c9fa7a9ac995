"""Questions of the API that only a worker can answer: it has the models.

control:{id}  string  the question as JSON: `kind` and the rest; gone after SECONDS
reply:{id}    list    one element, the answer as JSON; gone after SECONDS

The Celery message carries the id alone, so no prompt is seen in Flower or a log.
"""

from __future__ import annotations

import secrets
from typing import Any, cast

import orjson
import redis

SECONDS = 30


class NoWorkerError(Exception):
    """No worker answered in time."""


class ControlFailedError(Exception):
    """The worker could not do what was asked."""


class Control:
    """Asks and answers over one Redis."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix

    def ask(self, kind: str, question: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Ask whichever worker is free. `seconds` must be below the client's own timeout.

        Raises NoWorkerError, ControlFailedError, redis.RedisError.
        """
        from tasks.signatures import control

        question_id = secrets.token_hex(16)
        self._redis.set(
            f"{self._prefix}control:{question_id}",
            orjson.dumps({**question, "kind": kind}),
            ex=SECONDS,
        )
        control.apply_async((question_id,))
        reply = cast(
            "tuple[bytes, bytes] | None",
            self._redis.blpop([f"{self._prefix}reply:{question_id}"], timeout=seconds),
        )
        if reply is None:
            raise NoWorkerError(NoWorkerError.__doc__)
        answer: dict[str, Any] = orjson.loads(reply[1])
        if "failed" in answer:
            raise ControlFailedError(answer["failed"])
        return answer

    def question(self, question_id: str) -> dict[str, Any] | None:
        """A question, once; None when it is too old or was taken."""
        data = cast("bytes | None", self._redis.getdel(f"{self._prefix}control:{question_id}"))
        return orjson.loads(data) if data else None

    def reply(self, question_id: str, answer: dict[str, Any]) -> None:
        """Answer a question."""
        name = f"{self._prefix}reply:{question_id}"
        with self._redis.pipeline() as pipe:
            pipe.rpush(name, orjson.dumps(answer))
            pipe.expire(name, SECONDS)
            pipe.execute()
