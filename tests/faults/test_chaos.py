"""The short form of the chaos program, and of its control, which shows that the audit bites.

`make chaos` runs it ten times as long as this.
"""

from __future__ import annotations

import pytest

from tests.faults.chaos import chaos, good

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_random_faults_lose_nothing_and_double_nothing() -> None:
    report = chaos(seed=101, seconds=60)
    assert report["accepted"] > 100
    assert good(report), report


def test_without_the_reconciler_jobs_are_lost() -> None:
    report = chaos(seed=102, seconds=30, reconciler=False)
    assert report["lost"] > 0, report
