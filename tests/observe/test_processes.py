"""Several API processes behind one port: every scrape sees the requests of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.observe.conftest import read_samples
from tests.stack import RealStack

REQUESTS = 60


@pytest.mark.slow
def test_a_scrape_adds_up_all_processes(tmp_path: Path) -> None:
    stack = RealStack(tmp_path, {"API_WORKERS": "2"})
    try:
        stack.start_redis()
        stack.start_api()
        for _ in range(REQUESTS):  # each on a connection of its own, so that both get some
            requests.get(f"{stack.url}/v1/nothing", timeout=10)
        for _ in range(5):
            samples = read_samples(requests.get(f"{stack.url}/v1/metrics", timeout=10).text)
            unknown = sum(
                amount
                for (name, labels), amount in samples.items()
                if name == "inferenceflow_http_request_duration_seconds_count"
                and dict(labels)["route"] == "none"
            )
            assert unknown == REQUESTS
    finally:
        stack.stop()
