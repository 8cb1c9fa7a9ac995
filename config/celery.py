"""Celery's configuration, and why each value is what it is."""

from __future__ import annotations

import itertools
from typing import Any

from kombu import Exchange, Queue

from config.sentinel import is_sentinel, parse_sentinel_url
from config.settings import Settings

BROKER_PREFIX = "broker:"  # under our own key prefix; before every key that kombu makes

# Tasks of each queue served out of every ten while all three are full. Low always gets its share.
QUEUE_WEIGHTS = {"inference.high": 6, "inference.normal": 3, "inference.low": 1}
INFERENCE_QUEUES = tuple(QUEUE_WEIGHTS)
SYSTEM_QUEUE = "system"  # the reconciler and other housekeeping, on a worker of its own
CONTROL_QUEUE = "control"  # small questions of the API that only a worker can answer
WEBHOOK_QUEUE = "webhooks"  # deliveries, on a worker of their own: receivers may be slow
SCALER_QUEUE = "scaler"  # its tick, on a process of its own: forecasting takes memory and CPU
ALL_QUEUES = (*INFERENCE_QUEUES, CONTROL_QUEUE, SYSTEM_QUEUE, WEBHOOK_QUEUE, SCALER_QUEUE)

VISIBILITY_TIMEOUT = 900  # seconds; longer than the longest run of a task


def _weighted_order() -> itertools.cycle[str]:
    """The queue to ask first, spread evenly: smooth weighted round robin, as nginx does it."""
    total = sum(QUEUE_WEIGHTS.values())
    current = dict.fromkeys(QUEUE_WEIGHTS, 0)
    order = []
    for _ in range(total):
        for name, weight in QUEUE_WEIGHTS.items():
            current[name] += weight
        chosen = max(current, key=lambda name: current[name])
        current[chosen] -= total
        order.append(chosen)
    return itertools.cycle(order)


class WeightedCycle:
    """kombu's `queue_order_strategy`: which queues BRPOP names, in which order.

    BRPOP takes from the first queue named that has a message. The first one is drawn by weight;
    behind it stand the others from high to low, so that no worker idles while anything waits.
    """

    def __init__(self, it: list[str] | None = None) -> None:
        self.items: list[str] = list(it or [])
        self._order = _weighted_order()

    def update(self, it: list[str]) -> None:
        """Take over the queues that this channel consumes."""
        self.items[:] = it

    def consume(self, n: int) -> list[str]:
        """The queues for the next BRPOP."""
        return self.order(self.items[:n])

    def order(self, queues: list[str]) -> list[str]:
        """These queues, in the order in which to look for the next message."""
        rank = {name: place for place, name in enumerate((CONTROL_QUEUE, *QUEUE_WEIGHTS))}
        rest = sorted(queues, key=lambda name: rank.get(name, len(rank)))
        first = next(self._order)
        if first not in rest:
            return rest
        # Control tasks are rare, short, and somebody waits for them: they stay in front.
        head = [CONTROL_QUEUE] if CONTROL_QUEUE in rest else []
        return [*head, first, *(name for name in rest if name not in (first, *head))]

    def rotate(self, last_used: str) -> str:
        """Nothing to do: the order does not depend on what was found."""
        return last_used


def _broker(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The broker's URL as kombu takes it, and what must go into the transport options for it."""
    if not is_sentinel(settings.broker_url):
        return settings.broker_url, {}
    address = parse_sentinel_url(settings.broker_url)
    options = {"master_name": address.primary, "sentinel_kwargs": address.sentinel_options}
    return address.kombu_url(), options


def celery_config(settings: Settings) -> dict[str, Any]:
    """The configuration of the Celery app."""
    broker_url, broker_options = _broker(settings)
    return {
        "broker_url": broker_url,
        "broker_transport": "config.broker:"
        + ("SentinelTransport" if is_sentinel(settings.broker_url) else "RedisTransport"),
        # The ledger holds every result. A result backend would hold a second, weaker truth; the
        # few control tasks that are waited for answer through a Redis list of their own.
        "task_ignore_result": True,
        # A task that dies with its worker is delivered again ...
        "task_acks_late": True,
        # ... also when a pool process was killed. The ledger caps the attempts.
        "task_reject_on_worker_lost": True,
        # One message reserved for each thread: no worker sits on work that another could do.
        "worker_prefetch_multiplier": 1,
        # No pickle: a message can never run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # A mistyped queue name must fail, not make a queue that nobody reads.
        "task_create_missing_queues": False,
        "task_queues": [
            Queue(name, Exchange(name, type="direct"), routing_key=name) for name in ALL_QUEUES
        ],
        "task_routes": {
            "ledger.*": {"queue": SYSTEM_QUEUE},
            "usage.*": {"queue": SYSTEM_QUEUE},
            "batch.*": {"queue": SYSTEM_QUEUE},
            "files.*": {"queue": SYSTEM_QUEUE},
            "webhooks.tick": {"queue": SYSTEM_QUEUE},
            "webhooks.deliver": {"queue": WEBHOOK_QUEUE},
            "control.*": {"queue": CONTROL_QUEUE},
            "scaler.*": {"queue": SCALER_QUEUE},
        },
        "task_default_queue": "inference.normal",
        "task_default_exchange": "inference.normal",
        "task_default_routing_key": "inference.normal",
        # A worker that starts before Redis waits for it.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: the supervisor decides, not a counter
        # True lost jobs when Redis was killed (measured).
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # SIGTERM: finish what runs, then put back what does not end in time.
        "worker_soft_shutdown_timeout": 30,
        "worker_enable_soft_shutdown_on_idle": True,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # A killed worker's messages return within 6 s instead of 100 s; those of the inference
            # lanes are not kept for this (config/broker.py).
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # A half-open connection is noticed within 11 s instead of 48 s.
            "health_check_interval": 5,
            "socket_connect_timeout": 3,
            # Without it a command on a dead connection waits for ever, and the check with it.
            "socket_timeout": 5,
            "socket_keepalive": True,
            "global_keyprefix": settings.key_prefix + BROKER_PREFIX,
            "queue_order_strategy": "config.celery:WeightedCycle",
            # One list a queue: three queues give priority, and LLEN tells the truth.
            "priority_steps": [0],
            # retry_on_timeout stays unset: a publish tried again may have happened already.
            **broker_options,
        },
        "visibility_timeout": VISIBILITY_TIMEOUT,
        # Flower and celery-exporter live on these. Tasks carry ids only, so no prompt is in them.
        # They take a fifth of a busy worker's main thread; Flower switches them on where it runs.
        "worker_send_task_events": settings.task_events,
        "task_send_sent_event": False,  # a publish more for each task, and nobody reads it
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "imports": ["tasks.signatures"],
        "timezone": "UTC",
        "enable_utc": True,
    }
