"""Each promise with its mechanism taken away: its test must fail.

    python -m tests.faults.mutants                    # all of them, about 20 minutes
    python -m tests.faults.mutants fence message ...  # only these

A mutant is one small edit of the source, made in a copy of the tree. Prints a JSON object for
each. Exit code 1 if a test still passes, so that it proves nothing. `docs/promises.md` names
them in its last column.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COPIED = ("app", "config", "tasks", "workers", "tests", "pyproject.toml")
TESTS_FAILED = 1  # pytest's exit code; others mean that the tests could not be run


@dataclass(frozen=True)
class Mutant:
    """One mechanism taken away."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]  # text that stands there once, and what is put in its place
    test: str
    seconds: int = 120  # then a test that hangs has failed

    def applied(self, text: str) -> str:
        """The file without the mechanism. Raises ValueError when it is no longer there."""
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {text.count(old)} times in {self.file}: {old!r}")
            text = text.replace(old, new)
        return text


def mutant(name: str, file: str, old: str, new: str, test: str, seconds: int = 120) -> Mutant:
    """A mutant of one edit."""
    return Mutant(name, file, ((old, new),), test, seconds)


LEDGER = "tests/ledger/test_ledger.py::"
WORKERS = "tests/faults/test_workers.py::"
STREAMS = "tests/streams/test_real_stack.py::"
LUA = "tasks/lua/"

MUTANTS = [
    mutant(
        "message", f"{LUA}sweep.lua",
        "for i = 1, math.min(missing, tonumber(ARGV[3])) do", "for i = 1, 0 do",
        f"{WORKERS}test_messages_lost_between_brpop_and_bookkeeping",
    ),
    mutant(
        "publish", f"{LUA}sweep.lua",
        "for i = 1, math.min(missing, tonumber(ARGV[3])) do", "for i = 1, 0 do",
        f"{LEDGER}TestRecovery::test_lost_messages_are_made_up_for_once",
    ),
    mutant(
        "lease", f"{LUA}sweep.lua",
        "      make_ready(id, tenant, lane, job[4])\n      total('recovered', lane)",
        "      total('recovered', lane)",
        f"{WORKERS}test_a_killed_workers_job_ends_on_another",
    ),
    mutant(
        "fence", f"{LUA}finish.lua",
        "if job[2] ~= fence then return 0 end\n", "",
        f"{LEDGER}TestRecovery::test_a_dead_workers_job_runs_again_and_its_result_is_refused",
    ),
    mutant(
        "fence-frozen", "workers/lease.py",
        "return self._lost.is_set() or time.monotonic() > self.good_until", "return False",
        f"{WORKERS}test_a_cancelled_run_frees_its_worker",
    ),
    mutant(
        "attempts", f"{LUA}sweep.lua",
        "if tonumber(job[6]) >= tonumber(job[7]) then", "if false then",
        f"{WORKERS}test_a_poison_job_is_given_up",
    ),
    mutant(
        "deferral", "workers/pipeline.py",
        "    if later and waited + delay < left:", "    if False:",
        f"{WORKERS}test_a_provider_that_is_down_for_a_while",
    ),
    mutant(
        "deadline-sweep", f"{LUA}sweep.lua",
        "  elseif tonumber(job[5]) <= now then", "  elseif false then",
        f"{LEDGER}TestRecovery::test_a_step_is_bounded",
    ),
    mutant(
        "deadline-call", "workers/providers/watchdog.py",
        "if time.monotonic() >= self.limits.deadline:", "if False:",
        "tests/providers/test_failures.py::"
        "test_the_deadline_holds_even_against_dripping_bytes",
        seconds=10,
    ),
    mutant(
        "deadline-admission", f"{LUA}submit.lua",
        "if wait and wait * 1000 > tonumber(ARGV[6])", "if false",
        "tests/ledger/test_deadlines.py",
    ),
    mutant(
        "failover", "workers/router/call.py",
        "                self._judge(error, admission.target)\n                waits",
        "                raise\n                waits",
        "tests/router/test_call.py::"
        "test_each_failure_goes_to_the_next_provider_with_its_reason",
    ),
    mutant(
        "redis-down", "app/problems.py",
        "    app.register_error_handler(redis.RedisError, redis_down)\n", "",
        "tests/api/test_refusals.py::test_redis_stopped_during_a_poll",
    ),
    mutant(
        "idempotency", f"{LUA}submit.lua",
        "  if held[1] then\n", "  if false then\n",
        "tests/api/test_jobs.py::TestIdempotency",
    ),
    mutant(
        "idempotency-body", f"{LUA}submit.lua",
        "if held[2] ~= body then", "if false then",
        "tests/api/test_jobs.py::TestIdempotency::test_another_body_is_refused",
    ),
    mutant(
        "cancelled-call", "workers/pipeline.py",
        "cancelled=lambda: self.lease.lost", "cancelled=lambda: False",
        f"{STREAMS}test_cancelling_closes_a_call_that_waits_for_its_first_byte",
    ),
    mutant(
        "stream-resume", "app/routes/streams.py",
        "after=after, ping_seconds=ping_seconds)", 'after="", ping_seconds=ping_seconds)',
        f"{STREAMS}test_a_resumed_stream_is_byte_identical",
    ),
    mutant(
        "stream-restart", f"{LUA}append.lua",
        "if last.run ~= fence and last.event == 'delta' then", "if false then",
        f"{STREAMS}test_the_death_of_a_worker_shows_as_a_restart",
    ),
    mutant(
        "marked-retry", "app/submission.py",
        "    if retries is None:", "    if True:",
        "tests/api/test_jobs.py::TestIdempotency::test_a_marked_retry_is_the_same_job",
    ),
    mutant(
        "turns", f"{LUA}claim.lua",
        "redis.call('ZADD', ring, vtime + 1, tenant)",
        "redis.call('ZADD', ring, vtime, tenant)",
        f"{LEDGER}TestFairness",
    ),
    mutant(
        "weights", "config/celery.py",
        "        current[chosen] -= total\n", "",
        "tests/unit/test_celery_config.py",
    ),
    mutant(
        "ageing", f"{LUA}sweep.lua",
        "'-inf', oldest, 'LIMIT', 0, 5)", "'-inf', oldest, 'LIMIT', 0, 0)",
        f"{LEDGER}TestRecovery::test_low_jobs_age_into_normal",
    ),
    Mutant(
        "one-sweep", f"{LUA}sweep.lua",
        (
            ("      redis.call('HSET', record, 'state', 'queued', 'ready_at', int(now))\n", ""),
            (
                "      redis.call('ZADD', key('due'), job[5], id)\n      make_ready",
                "      make_ready",
            ),
        ),
        f"{LEDGER}TestRecovery::test_two_reconcilers_at_once_do_no_harm",
    ),
    mutant(
        "final", f"{LUA}finish.lua",
        "if job[1] ~= 'running' then return 0 end\n", "",
        "tests/ledger/test_state_machine.py",
    ),
    mutant(
        "replica", "tasks/ledger.py",
        "        if self._replication is None:\n", "        if True:\n",
        "tests/deploy/test_failover.py::test_no_acceptance_without_the_replica",
    ),
    mutant(
        "append-only", "app/stack/embedded.py",
        '"--appendonly", "yes"', '"--appendonly", "no"',
        "tests/faults/test_redis.py::test_redis_killed_twice_under_load",
    ),
    mutant(
        "cut-tail", "app/stack/embedded.py",
        '"--appendfsync", "everysec"',
        '"--appendfsync", "everysec", "--aof-load-truncated", "no"',
        "tests/faults/test_redis.py::test_a_cut_tail_of_the_log_starts_again",
    ),
    mutant(
        "half-open", "config/celery.py",
        '            "socket_timeout": 5,\n', "",
        "tests/faults/test_half_open.py",
    ),
    mutant(
        "given-up", "config/broker.py",
        "if self.connection is None or self.connection.client is None:", "if False:",
        "tests/config/test_broker.py",
    ),
    mutant(
        "cache-down", "workers/cache/cache.py",
        '# Redis may come back empty\n            self.exact.failed("lookup", error)\n',
        "\n            raise\n",
        "tests/faults/test_redis.py::test_jobs_run_without_the_caches_redis",
    ),
    mutant(
        "redis-full", "tasks/scripts.py",
        '"#!lua flags=allow-oom\\n"', '"#!lua\\n"',
        "tests/faults/test_redis.py::test_a_full_redis_refuses_new_work_and_finishes_old",
    ),
    mutant(
        "admission-full", "tasks/ledger.py",
        'load_script(client, "submit", when_full=False)', 'load_script(client, "submit")',
        "tests/faults/test_redis.py::test_a_full_redis_refuses_new_work_and_finishes_old",
    ),
    mutant(
        "redis-full-said", "app/problems.py",
        "    app.register_error_handler(redis.exceptions.OutOfMemoryError, redis_full)\n", "",
        "tests/faults/test_redis.py::test_a_full_redis_is_said_to_clients",
    ),
    mutant(
        "append-only-disk", "app/stack/embedded.py",
        '"--appendonly", "yes"', '"--appendonly", "no"',
        "tests/faults/test_disk_full.py::test_a_full_disk_under_redis_refuses_and_heals",
    ),
    mutant(
        "disk-files", "tasks/files.py",
        "        except OSError as error:\n            self._purge(tenant, file_id)\n",
        "        except OSError as error:\n",
        "tests/faults/test_disk_full.py::test_a_full_file_store_takes_nothing_by_halves",
    ),
    mutant(
        "disk-database", "app/problems.py",
        "    app.register_error_handler(DatabaseDownError, database_down)\n", "",
        "tests/faults/test_disk_full.py::test_a_full_database_changes_nothing_by_halves",
    ),
    mutant(
        "database-down", "tasks/database.py",
        "except (OperationalError, InterfaceError, ProgrammingError, PoolTimeoutError)",
        "except ZeroDivisionError",
        "tests/accounts/test_admin.py::test_a_database_that_is_down_is_said",
    ),
    mutant(
        "usage-waits", "workers/usage.py",
        "                good, bad = self._store(entries)\n",
        "                self._outbox.acknowledge([id_ for id_, _ in entries])\n"
        "                good, bad = self._store(entries)\n",
        "tests/accounts/test_usage_writer.py::test_nothing_is_lost_while_the_database_is_down",
    ),
    mutant(
        "outbox", "tasks/outbox.py",
        'if FOLLOWERS - {group["name"].decode() for group in groups}:', "if False:",
        "tests/accounts/test_usage_writer.py::"
        "test_nothing_is_trimmed_before_every_follower_has_begun",
    ),
    mutant(
        "clock-ticks", "tasks/signatures.py",
        'task(name="ledger.sweep")', 'task(name="ledger.sweep", expires=10)',
        "tests/faults/test_clock.py::test_workers_whose_clocks_are_days_off",
    ),
    mutant(
        "clock-files", "tasks/files.py",
        "        seconds, micros = self._redis.time()\n",
        "        import time\n\n        seconds, micros = time.time(), 0\n",
        "tests/faults/test_clock.py::test_a_process_ahead_of_time_purges_nothing",
    ),
    mutant(
        "clock-beat", "app/beat.py",
        "return round(moved, 1) if abs(moved) > JUMP_SECONDS else 0.0", "return 0.0",
        "tests/faults/test_clock.py::test_beat_sees_a_clock_that_was_set",
    ),
    mutant(
        "batch-closes", f"{LUA}batch_close.lua",
        "if b[1] ~= 'finalizing' then return 0 end\n", "",
        "tests/batches/test_batch_ledger.py::test_the_callback_is_sent_once_and_the_batch_closes_once",
    ),
    mutant(
        "batch-callback", "workers/batches/tick.py",
        "            _call_back(current, batch_id)\n", "            continue\n",
        "tests/batches/test_batch_faults.py::test_a_lost_callback_and_a_window_that_ends",
    ),
    mutant(
        "batch-member", f"{LUA}sweep.lua",
        "      make_ready(id, tenant, lane, job[4])\n      total('recovered', lane)",
        "      total('recovered', lane)",
        "tests/batches/test_batch_faults.py::test_kills_lose_and_double_nothing",
    ),
    mutant(
        "webhook-retry", "workers/webhooks/deliver.py",
        '    return "retry", next_at, LEAST_WAIT_SECONDS\n', '    return "failed", None, 0.0\n',
        "tests/webhooks/test_webhooks.py::test_a_failing_endpoint_is_tried_again_with_the_same_id",
    ),
    mutant(
        "webhook-gone", "workers/webhooks/deliver.py",
        "    if posted.status == GONE:\n", "    if False:\n",
        "tests/webhooks/test_webhooks.py::test_gone_disables_and_others_are_told",
    ),
    mutant(
        "webhook-redirect", "workers/webhooks/egress.py",
        "                never_redirect=True,\n", "                never_redirect=False,\n",
        "tests/webhooks/test_webhooks.py::test_a_redirect_is_a_failure_and_is_not_followed",
    ),
    mutant(
        "webhook-drip", "workers/webhooks/egress.py",
        "            deadline=started + self._timeout,\n", "            deadline=started + 600,\n",
        "tests/webhooks/test_webhooks.py::test_a_drip_ends_at_the_timeout",
    ),
    mutant(
        "ssrf", "tasks/egress.py",
        "        address.is_global\n        and", "        True\n        and",
        "tests/webhooks/test_egress.py",
    ),
    mutant(
        "ssrf-environment", "workers/webhooks/egress.py",
        "        self._session.trust_env = False\n", "",
        "tests/webhooks/test_egress.py::test_the_environment_is_not_read",
    ),
    mutant(
        "leaving-waits", "app/wsgi.py",
        "when_leaving(_services.hub.stop)\n", "",
        "tests/deploy/test_leaving.py",
    ),
    mutant(
        "leaving-drain", "app/server.py",
        "workers_kill_timeout=SHUTDOWN_SECONDS", "workers_kill_timeout=1",
        "tests/deploy/test_leaving.py",
    ),
    mutant(
        "version-newer", "tasks/ledger.py",
        "        if written_by(record) > RECORD_VERSION:\n", "        if False:\n",
        "tests/ledger/test_versions.py",
    ),
    mutant(
        "version-fields", "tasks/inference.py",
        'model_validate_json(data, extra="ignore")', "model_validate_json(data)",
        "tests/ledger/test_versions.py",
    ),
]  # fmt: skip


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of the source that can be spoilt."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        yield Path(folder)


def killed(one: Mutant, tree: Path) -> tuple[bool, str]:
    """Whether the test fails without the mechanism; the last line that pytest wrote."""
    path = tree / one.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(one.applied(whole), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--timeout={one.seconds}",
                one.test,
            ],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(whole, encoding="utf-8")
    lines = done.stdout.strip().splitlines() or [done.stderr[-300:]]
    summary = next((line for line in lines if line.startswith("FAILED")), lines[-1])
    return done.returncode == TESTS_FAILED, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants; all if left out")
    parser.add_argument("--out", type=Path, help="file that each result is added to, as JSON lines")
    given = parser.parse_args()
    if unknown := set(given.names) - {one.name for one in MUTANTS}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    survivors = []
    with copied_tree() as tree:
        for one in MUTANTS:
            if given.names and one.name not in given.names:
                continue
            began = time.monotonic()
            dead, summary = killed(one, tree)
            report = {
                "mutant": one.name,
                "file": one.file,
                "test": one.test,
                "fails_without_it": dead,
                "seconds": round(time.monotonic() - began, 1),
                "pytest": summary[:200],
            }
            print(json.dumps(report), flush=True)
            if given.out:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                with given.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(report) + "\n")
            if not dead:
                survivors.append(one.name)
    if survivors:
        sys.exit(f"still passing without their mechanism: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
