"""Beat: the clock of the housekeeping tasks. One is active; others stand by on a lock."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import redis
from redis.lock import Lock

from config.logs import configure_logging
from config.settings import Settings
from tasks.celery_app import celery_app
from tasks.redis_client import connect

logger = logging.getLogger(__name__)

LOCK_SECONDS = 6.0  # a dead beat is replaced within this: nothing is recovered meanwhile
JUMP_SECONDS = 2.0  # a clock that is set by so much has jumped


class ClockWatch:
    """Sees when the clock of the day was set, by comparing it with one that never is."""

    def __init__(
        self,
        of_day: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._of_day, self._steady = of_day, steady
        self._apart = of_day() - steady()

    def jump(self) -> float:
        """Seconds by which it was set since the last look; 0 for a correction."""
        before, self._apart = self._apart, self._of_day() - self._steady()
        moved = self._apart - before
        return round(moved, 1) if abs(moved) > JUMP_SECONDS else 0.0


def run_beat(settings: Settings) -> None:
    """Stand by until the lock is free, then send tasks until the process ends.

    When the lock cannot be kept (Redis was away for too long) the process exits, so that there
    are never two; its supervisor starts it again. It also exits when the clock has jumped: Celery's
    schedule would stand still until a clock that was set back has caught up.
    """
    configure_logging(settings)
    from tasks.signatures import beat_schedule

    client = connect(settings.broker_url, timeout=5)
    lock = client.lock(
        f"{settings.key_prefix}beat", timeout=LOCK_SECONDS, sleep=1.0, thread_local=False
    )
    _acquire(lock, settings)
    logger.info("beat is active", extra={"action": "beat_active"})
    threading.Thread(target=_keep, args=(lock, settings), name="beat-lock", daemon=True).start()
    # Scheduler, not PersistentScheduler: every period is short, so there is nothing to remember.
    celery_app.conf.beat_schedule = beat_schedule(settings)
    celery_app.Beat(
        scheduler="celery.beat:Scheduler", loglevel=settings.log_level, quiet=True
    ).run()


def _acquire(lock: Lock, settings: Settings) -> None:
    while True:
        _show_life(settings)  # standing by is healthy, and so is waiting for Redis
        try:
            if lock.acquire(blocking_timeout=LOCK_SECONDS / 4):
                return
        except redis.RedisError as error:
            logger.warning(
                "beat lock not reachable",
                extra={"action": "beat_lock_unreachable", "error": type(error).__name__},
            )
            threading.Event().wait(1.0)


def _keep(lock: Lock, settings: Settings) -> None:
    pause = threading.Event()
    kept = time.monotonic()
    clock = ClockWatch()
    while not pause.wait(LOCK_SECONDS / 4):
        if jump := clock.jump():
            logger.error("the clock jumped", extra={"action": "clock_jumped", "seconds": jump})
            os._exit(1)
        try:
            lock.reacquire()
            kept = time.monotonic()
        except redis.exceptions.LockError:
            logger.error("beat lock lost", extra={"action": "beat_lock_lost"})
            os._exit(1)
        except redis.RedisError:
            if time.monotonic() - kept > LOCK_SECONDS:
                logger.error("beat lock not kept", extra={"action": "beat_lock_lost"})
                os._exit(1)
        else:
            _show_life(settings)


def _show_life(settings: Settings) -> None:
    if settings.heartbeat_file is not None:
        settings.heartbeat_file.touch()
