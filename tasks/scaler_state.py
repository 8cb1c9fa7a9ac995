"""What the scaler leaves in Redis: its memory, its last decisions, its totals, and the pause.

Keys::

    {prefix}scaler:lock            string: the holder of the tick, expires by itself
    {prefix}scaler:token           integer: grows with every new holder          (permanent)
    {prefix}scaler:memory          hash: `token`, and per queue a JSON object only the scaler reads
    {prefix}scaler:decisions       hash: per queue the last decision as a JSON object
    {prefix}scaler:log:{queue}     list: the last decisions as JSON objects, newest first
    {prefix}scaler:totals          hash: `actions:{queue}:{direction}:{reason}` a count,
                                   `replica_seconds:{queue}` and `cost:{queue}` numbers (permanent)
    {prefix}scaler:paused          JSON object `{"by", "reason", "at"}` while paused (permanent)

All others expire 15 days after the last write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

STATE_TTL_SECONDS = 15 * 86_400
LOG_LENGTH = 200

_CLAIM = files("tasks").joinpath("scaler_claim.lua").read_text()
_SAVE = files("tasks").joinpath("scaler_save.lua").read_text()


def claim_tick(client: Any, holder: str, seconds: float, *, prefix: str = "") -> int | None:
    """Take or renew the scaler's lock; its fencing token, or None while another holds it."""
    token = client.eval(
        _CLAIM, 2, f"{prefix}scaler:lock", f"{prefix}scaler:token", holder, int(seconds * 1000)
    )
    return None if token is None else int(token)


def token_is_newest(client: Any, token: int, *, prefix: str = "") -> bool:
    """Whether nobody took the lock after the holder of `token`."""
    newest = client.get(f"{prefix}scaler:token")
    return newest is not None and int(newest) == token


def save_tick(
    client: Any,
    token: int,
    *,
    memories: Mapping[str, str],
    decisions: Mapping[str, str],
    prefix: str = "",
) -> bool:
    """Store what the holder of `token` remembers and decided, as JSON texts by queue.

    Returns False, and stores nothing, if somebody with a newer token stored before.
    """
    arguments: list[str | int] = [token, STATE_TTL_SECONDS, LOG_LENGTH, len(memories)]
    for queue, text in memories.items():
        arguments += [queue, text]
    logs = []
    for queue, text in decisions.items():
        arguments += [queue, text]
        logs.append(f"{prefix}scaler:log:{queue}")
    keys = [f"{prefix}scaler:memory", f"{prefix}scaler:decisions", *logs]
    return bool(client.eval(_SAVE, len(keys), *keys, *arguments))


def load_memories(client: Any, *, prefix: str = "") -> dict[str, str]:
    """What the scaler remembered, as JSON texts by queue."""
    stored = _texts(client.hgetall(f"{prefix}scaler:memory"))
    stored.pop("token", None)
    return stored


def count_tick(
    client: Any,
    *,
    actions: list[tuple[str, str, str]],
    replica_seconds: Mapping[str, float],
    cost: Mapping[str, float],
    prefix: str = "",
) -> None:
    """Add to the totals: actions as (queue, direction, reason), replica-seconds and US dollars."""
    key = f"{prefix}scaler:totals"
    with client.pipeline(transaction=False) as pipe:
        for queue, direction, reason in actions:
            pipe.hincrby(key, f"actions:{queue}:{direction}:{reason}", 1)
        for queue, amount in replica_seconds.items():
            pipe.hincrbyfloat(key, f"replica_seconds:{queue}", amount)
        for queue, amount in cost.items():
            pipe.hincrbyfloat(key, f"cost:{queue}", amount)
        pipe.execute()


def pause_scaler(client: Any, *, by: str, reason: str, at: float, prefix: str = "") -> None:
    """Let the scaler decide, but change nothing, until it is resumed."""
    record = json.dumps({"by": by, "reason": reason, "at": at})
    client.set(f"{prefix}scaler:paused", record)


def resume_scaler(client: Any, *, prefix: str = "") -> None:
    """End a pause."""
    client.delete(f"{prefix}scaler:paused")


def read_pause(client: Any, *, prefix: str = "") -> dict[str, Any] | None:
    """Who paused the scaler, why and when; None if it is not paused."""
    record = client.get(f"{prefix}scaler:paused")
    return None if record is None else cast("dict[str, Any]", json.loads(record))


def read_totals(client: Any, *, prefix: str = "") -> dict[str, float]:
    """The totals by field, as the module's docstring names them."""
    stored = _texts(client.hgetall(f"{prefix}scaler:totals"))
    return {field: float(value) for field, value in stored.items()}


def read_scaler(client: Any, *, log: int = 0, prefix: str = "") -> dict[str, Any]:
    """The body of `GET /v1/scaler`.

    `paused` (None or the pause), `queues` (the last decision of each, by name), `totals`, and with
    `log` also `log` (by queue, the last so many decisions, newest first).
    """
    decisions = _texts(client.hgetall(f"{prefix}scaler:decisions"))
    state: dict[str, Any] = {
        "paused": read_pause(client, prefix=prefix),
        "queues": {queue: json.loads(text) for queue, text in sorted(decisions.items())},
        "totals": read_totals(client, prefix=prefix),
    }
    if log > 0:
        state["log"] = {
            queue: [
                json.loads(text)
                for text in client.lrange(f"{prefix}scaler:log:{queue}", 0, log - 1)
            ]
            for queue in state["queues"]
        }
    return state


def _texts(stored: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(field): _text(value) for field, value in stored.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
