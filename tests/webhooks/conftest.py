"""One real stack with a webhook worker, and a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import RealStack, real_stack
from tests.webhooks.receiver import Receiver


@pytest.fixture(scope="module")
def hook_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    folder: Path = tmp_path_factory.mktemp("hook_stack")
    with real_stack(
        folder,
        FILES_URL=f"file://{folder}/files",
        WEBHOOK_ALLOW_HOSTS="127.0.0.1",
        WEBHOOK_TIMEOUT_SECONDS="1.5",
        WEBHOOK_CONCURRENCY="8",
        WEBHOOK_ENDPOINT_CONCURRENCY="2",
        WEBHOOK_TENANT_CONCURRENCY="3",
        WEBHOOK_DISABLE_SECONDS="4",
    ) as stack:
        stack.start_webhooks()
        yield stack


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
