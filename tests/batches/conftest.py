"""One real stack for the tests of batches: API, worker, housekeeping, and a provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import RealStack, real_stack


@pytest.fixture(scope="module")
def batch_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    folder: Path = tmp_path_factory.mktemp("batch_stack")
    with real_stack(
        folder,
        "--latency",
        "0.02",
        FILES_URL=f"file://{folder}/files",
        BATCH_SLICE_LINES="20",
        BATCH_OPEN_LINES="50",
        BATCH_MAX_LINES="2000",
    ) as stack:
        yield stack
