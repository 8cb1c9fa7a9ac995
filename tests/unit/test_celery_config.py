from __future__ import annotations

from collections import Counter

import orjson

from config.celery import (
    CONTROL_QUEUE,
    INFERENCE_QUEUES,
    QUEUE_WEIGHTS,
    WeightedCycle,
    celery_config,
)
from config.settings import Settings
from tasks.messages import run_message
from tasks.signatures import celery_app


def test_full_queues_are_served_by_weight_and_low_is_never_starved() -> None:
    cycle = WeightedCycle()
    cycle.update(list(reversed(INFERENCE_QUEUES)))
    served = Counter(cycle.consume(3)[0] for _ in range(300))
    assert served == {name: weight * 30 for name, weight in QUEUE_WEIGHTS.items()}


def test_every_queue_is_asked_every_time_high_before_low() -> None:
    cycle = WeightedCycle(list(INFERENCE_QUEUES))
    for _ in range(20):
        first, *rest = cycle.consume(3)
        assert {first, *rest} == set(INFERENCE_QUEUES)
        assert rest == sorted(rest, key=INFERENCE_QUEUES.index)


def test_control_comes_first_and_a_worker_may_lack_lanes() -> None:
    cycle = WeightedCycle(["inference.low", CONTROL_QUEUE])
    for _ in range(20):
        assert cycle.consume(2) == [CONTROL_QUEUE, "inference.low"]
    assert cycle.rotate("inference.low") == "inference.low"


def test_only_json_is_accepted_and_typos_fail() -> None:
    config = celery_config(Settings(_env_file=None))
    assert config["accept_content"] == ["json"]
    assert config["task_create_missing_queues"] is False
    assert config["worker_cancel_long_running_tasks_on_connection_loss"] is False


def test_the_message_carries_no_data() -> None:
    message = orjson.loads(run_message())
    assert message["headers"]["task"] == "inference.run"
    assert message["headers"]["argsrepr"] == "()"
    assert message["headers"]["kwargsrepr"] == "{}"
    assert "inference.run" in celery_app.tasks
