"""Runs a plan: candidates in order, retries, circuit breakers, failover, to an answer or an error.

Cost in Redis round trips: 1 before a provider call (admit.lua reads breakers, pauses, rate limits,
load and latency of all candidates, and reserves the chosen one) and 1 after it (record.lua). A
failed call adds the same two for the next candidate. Nothing else on this path speaks to Redis.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import tenacity

from tasks.inference import Attempt
from workers.providers.base import CallLimits, Completion, Provider
from workers.providers.errors import (
    AllProvidersFailed,
    Cancelled,
    ContextTooLong,
    NoCapacity,
    ProviderError,
    ProviderTimeout,
)
from workers.router.outcome import pause_seconds, result_of
from workers.router.plan import Plan
from workers.router.targets import Admission, Ask, Outcome, Passed, Result, RouterState, Target

logger = logging.getLogger(__name__)

LEASE_MARGIN_SECONDS = 5.0
CANCEL_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class RetryPolicy:
    """How stubbornly a plan is run."""

    rounds: int = 3  # times that the candidates are gone through
    base_seconds: float = 0.25  # first backoff; full jitter: uniform between 0 and the bound
    max_seconds: float = 8.0  # backoff bound
    max_wait_seconds: float = 2.0  # a longer wait is handed back: it must not hold a worker
    attempt_share: float = 0.5  # of the time left, that one attempt may use while others remain
    min_attempt_seconds: float = 2.0  # but never less than this


class _RoundFailed(Exception):
    """No candidate answered in this round; one may in `wait_seconds`, if that is not None."""

    def __init__(self, wait_seconds: float | None) -> None:
        super().__init__()
        self.wait_seconds = wait_seconds


def run_plan(
    plan: Plan,
    providers: Mapping[str, Provider],
    state: RouterState,
    *,
    limits: CallLimits,
    policy: RetryPolicy | None = None,
    on_delta: Callable[[str], None] | None = None,
    on_restart: Callable[[], None] | None = None,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> tuple[Completion, list[Attempt]]:
    """Answer the plan's request: the completion, and every attempt that was made or passed over.

    `on_delta` gets the text as it streams. Once it got some, a failed call is tried again only if
    `on_restart` is given; it is called first, and the stream then begins anew.

    Raises ProviderError with `attempts` set: NoCapacity where nothing could be called now (wait
    `retry_after` seconds: this is backpressure, not a failure); AllProvidersFailed where calls
    failed (`retryable` says whether the job may succeed later); BadRequest, ContextTooLong,
    ContentFiltered or Cancelled as they came from the provider.
    """
    run = _Run(
        plan, providers, state, limits, policy or RetryPolicy(), on_delta, on_restart, on_attempt
    )
    try:
        completion = run.run()
    except ProviderError as error:
        error.attempts = tuple(run.attempts)
        raise
    return completion, run.attempts


class _Run:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        providers: Mapping[str, Provider],
        state: RouterState,
        limits: CallLimits,
        policy: RetryPolicy,
        on_delta: Callable[[str], None] | None,
        on_restart: Callable[[], None] | None,
        on_attempt: Callable[[Attempt], None],
    ) -> None:
        self.plan = plan
        self.providers = providers
        self.state = state
        self.limits = limits
        self.policy = policy
        self.on_delta = on_delta
        self.on_restart = on_restart
        self.on_attempt = on_attempt
        self.attempts: list[Attempt] = list(plan.passed_over)
        self.live = {target.key: target for target in plan.targets}  # may still answer
        self.called = False
        self.streamed = False  # the client has seen text of the attempt that failed
        self.last: ProviderError | None = None
        self.blamed: set[str] = set()  # targets against whose circuits this request counted

    def run(self) -> Completion:
        try:
            return self._round()  # nearly always enough, and tenacity took an eighth of a job
        except _RoundFailed as failed:
            return self._retry(failed)

    def _retry(self, first: _RoundFailed) -> Completion:
        """Go on after a round that failed, which counts as the first."""
        failures = [first]

        def attempt() -> Completion:
            if failures:
                raise failures.pop()
            return self._round()

        backoff = tenacity.wait_random_exponential(
            multiplier=self.policy.base_seconds, max=self.policy.max_seconds
        )

        def wait(state: tenacity.RetryCallState) -> float:
            hint = _wait_of(state)
            return backoff(state) if hint is None else max(backoff(state), hint)

        def stop(state: tenacity.RetryCallState) -> bool:
            if _wait_of(state) is None or state.attempt_number >= self.policy.rounds:
                return True
            pause = state.upcoming_sleep
            late = time.monotonic() + pause >= self.limits.deadline
            return late or (_wait_of(state) or 0.0) > self.policy.max_wait_seconds

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_RoundFailed),
            wait=wait,
            stop=stop,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _RoundFailed as failed:
            raise self._final(failed.wait_seconds) from self.last

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.limits.cancelled():
                raise Cancelled
            time.sleep(min(left, CANCEL_LOOK_SECONDS))

    def _round(self) -> Completion:
        """Go through the candidates once. Raises _RoundFailed, or what ends the run."""
        waits: dict[str, float] = {}
        while True:
            # Before a place is reserved: a late job must not look like a provider's failure.
            if self.limits.cancelled():
                raise Cancelled
            if time.monotonic() >= self.limits.deadline:
                raise ProviderTimeout("the deadline passed before a provider answered")
            left = [t for key, t in self.live.items() if key not in waits]
            if not left:
                raise _RoundFailed(self._soonest(waits))
            ask = Ask(
                left,
                uuid.uuid4().hex,
                round(1000 * (self._seconds(len(left)) + LEASE_MARGIN_SECONDS)),
                self.plan.input_tokens + self.plan.output_tokens,
                self.plan.order,
            )
            admission = self.state.admit(ask)
            for passed in admission.passed:
                waits[passed.target.key] = passed.wait_seconds
                self._note_passed(passed)
            if admission.target is None:
                raise _RoundFailed(self._soonest(waits))
            try:
                return self._call(admission.target, admission, ask.token, len(left))
            except ProviderError as error:
                self._judge(error, admission.target)
                waits[admission.target.key] = error.retry_after or 0.0

    def _soonest(self, waits: Mapping[str, float]) -> float | None:
        return min((waits[key] for key in self.live if key in waits), default=None)

    def _seconds(self, candidates: int) -> float:
        """How long one attempt may take, so that others get their turn before the deadline."""
        left = max(0.0, self.limits.deadline - time.monotonic())
        if candidates == 1:
            return left
        return min(left, max(left * self.policy.attempt_share, self.policy.min_attempt_seconds))

    def _call(
        self, target: Target, admission: Admission, token: str, candidates: int
    ) -> Completion:
        provider = self.providers[target.provider]
        seconds = self._seconds(candidates)
        limits = replace(
            self.limits, first_byte_seconds=min(self.limits.first_byte_seconds, seconds)
        )
        if self.on_delta is None:
            # A stream shows that it is alive; only a whole answer needs its total time bounded.
            limits = replace(limits, deadline=time.monotonic() + seconds)
        started = time.monotonic()
        self.called = True
        result: Result = "released"
        error: ProviderError | None = None
        completion: Completion | None = None
        try:
            completion = provider.generate(
                self.plan.messages,
                target.model,
                params=self.plan.params,
                limits=limits,
                on_delta=self._delta if self.on_delta is not None else None,
            )
            result = "ok"
            return completion
        except ProviderError as caught:
            error = caught
            result = self._result_of(caught, target, admission, time.monotonic() - started)
            raise
        finally:
            latency_ms = (time.monotonic() - started) * 1000
            self._record(target, admission, token, result, latency_ms, completion, error)
            if completion is not None or error is not None:
                attempt = Attempt(
                    provider=target.provider,
                    model=target.model,
                    status="ok" if error is None else error.type,
                    latency_ms=round(latency_ms, 1),
                    error=None if error is None else str(error),
                )
                self.attempts.append(attempt)
                self.on_attempt(attempt)

    def _result_of(
        self, error: ProviderError, target: Target, admission: Admission, seconds: float
    ) -> Result:
        result = result_of(error)
        if result != "failed":
            return result
        late = time.monotonic() >= self.limits.deadline
        if (
            late
            and isinstance(error, ProviderTimeout)
            and seconds < self.policy.min_attempt_seconds
        ):
            return "released"  # the job came late; nobody could have answered
        if target.key in self.blamed and not admission.probe:
            # A prompt that breaks its reader would open every circuit by its retries alone.
            return "released"
        self.blamed.add(target.key)
        return "failed"

    def _delta(self, text: str) -> None:
        self.streamed = True
        if self.on_delta is not None:
            self.on_delta(text)

    def _record(
        self,
        target: Target,
        admission: Admission,
        token: str,
        result: Result,
        latency_ms: float,
        completion: Completion | None,
        error: ProviderError | None,
    ) -> None:
        pause = pause_seconds(self.providers[target.provider], target.model, error)
        reserved = self.plan.input_tokens + self.plan.output_tokens
        refund = 0 if completion is None else reserved - completion.usage.total
        change = self.state.record(
            Outcome(
                target,
                token,
                result,
                latency_ms,
                pause_ms=pause * 1000,
                refund=refund,
                probe=admission.probe,
                shared=admission.shared,
            )
        )
        if change != "none":
            logger.warning(
                "circuit breaker changed",
                extra={
                    "action": f"circuit_{change}",
                    "provider": target.provider,
                    "model": target.model,
                },
            )

    def _judge(self, error: ProviderError, target: Target) -> None:
        """Raise what ends the run; else strike the candidates that cannot answer any more."""
        self.last = error
        if not error.failover or time.monotonic() >= self.limits.deadline:
            raise error
        if isinstance(error, ContextTooLong):
            window = target.spec.context_window
            for key, other in list(self.live.items()):
                if other.spec.context_window <= window:
                    del self.live[key]
            if not self.live:
                raise error
        elif not error.retryable:
            del self.live[target.key]
        if self.streamed:
            if self.on_restart is None:
                raise AllProvidersFailed(
                    f"the stream was cut after text was sent: {error}", retryable=False
                ) from error
            self.on_restart()
            self.streamed = False

    def _note_passed(self, passed: Passed) -> None:
        why = f"asked to wait {passed.wait_seconds:.1f} s"
        attempt = Attempt(
            provider=passed.target.provider,
            model=passed.target.model,
            status=passed.reason,
            error=why,
        )
        known = {(a.provider, a.model, a.status) for a in self.attempts}
        if (attempt.provider, attempt.model, attempt.status) not in known:
            self.attempts.append(attempt)

    def _final(self, wait_seconds: float | None) -> AllProvidersFailed:
        if not self.called:
            return NoCapacity(attempts=self.attempts, retry_after=wait_seconds, retryable=True)
        tried = ", ".join(
            f"{a.provider}/{a.model}: {a.status}" for a in self.attempts if a.latency_ms
        )
        return AllProvidersFailed(
            f"every provider failed ({tried})",
            retry_after=wait_seconds,
            retryable=wait_seconds is not None,
        )


def _wait_of(state: tenacity.RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.wait_seconds if isinstance(error, _RoundFailed) else None
