"""The router: from a submission to an answer, by whichever provider can give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from config.catalogue import AUTO, Catalogue
from tasks.breakers import BreakerStatus
from tasks.inference import Attempt, InferenceSubmission
from workers.providers.base import CallLimits, Completion, Provider
from workers.router.call import RetryPolicy, run_plan
from workers.router.classify import Classifier, Decision, Embed, default_decision
from workers.router.plan import Plan, make_plan
from workers.router.targets import Ask, RouterState, Target


@dataclass
class Router:
    """What routing needs. Thread-safe: every thread of a worker shares one instance."""

    catalogue: Catalogue
    providers: Mapping[str, Provider]
    state: RouterState
    embed: Embed | None = None  # None: `auto` always takes the default tier
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    explore: float = 0.05  # share of requests under `latency` that go in random order
    on_attempt: Callable[[Attempt], None] = lambda _: None  # for metrics

    def __post_init__(self) -> None:
        auto = self.catalogue.auto
        self._classifier = (
            Classifier(auto, self.embed) if auto is not None and self.embed is not None else None
        )

    def explain(self, prompt: str) -> Decision | None:
        """What `auto` decides for a prompt, and why; None without a section `auto`."""
        if self._classifier is not None:
            return self._classifier.decide(prompt)
        return default_decision(self.catalogue.auto) if self.catalogue.auto is not None else None

    def route_request(self, submission: InferenceSubmission) -> Plan:
        """The candidates for a submission, best first. Calls no provider.

        Raises BadRequest or ContextTooLong where none can serve it; the message says what could.
        """
        decision = None
        if submission.model_preference == AUTO:
            decision = self.explain(submission.conversation()[-1].text)
        return make_plan(
            self.catalogue, self.providers, submission, decision=decision, explore=self.explore
        )

    def select_optimal_provider(self, plan: Plan) -> Target | None:
        """The candidate that a call would go to now; None if it would have to wait."""
        tokens = plan.input_tokens + plan.output_tokens
        return self.state.admit(Ask(plan.targets, "", 0, tokens, plan.order, dry=True)).target

    def check_circuit_breaker(self, provider: str, model: str) -> BreakerStatus:
        """The circuit breaker of a provider's model (as the provider names it)."""
        return self.state.breaker(provider, model)

    def calculate_similarity(self, first: str, second: str) -> float:
        """Cosine similarity of two texts, -1 to 1. Raises ValueError without an embedding."""
        if self.embed is None:
            raise ValueError("the router has no embedding model")
        a, b = self.embed([first, second])
        return float(a @ b)

    def call(
        self,
        plan: Plan,
        *,
        limits: CallLimits,
        on_delta: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
    ) -> tuple[Completion, list[Attempt]]:
        """Run a plan; see `run_plan` for what it returns and raises."""
        return run_plan(
            plan,
            self.providers,
            self.state,
            limits=limits,
            policy=self.policy,
            on_delta=on_delta,
            on_restart=on_restart,
            on_attempt=self.on_attempt,
        )
