"""What may be stored and what may be looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tasks.exact_cache import Answer
from tasks.inference import CacheOptions, InferenceSubmission

_TIME = re.compile(
    r"\b(?:today|tonight|yesterday|tomorrow|right now|at the moment|currently|"
    r"(?:this|last|next) (?:week|month|year|morning|evening|weekend|quarter|monday|tuesday|"
    r"wednesday|thursday|friday|saturday|sunday)|what time is it|(?:the )?(?:current|latest|"
    r"newest|most recent) (?:news|price|weather|time|date|score|version|president|status|rate)|"
    r"(?:weather|stock price|exchange rate|news) (?:now|today)|what(?:'s| is) the (?:date|time))\b",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"\b(?:who am i|what(?:'s| is) my|where(?:'s| is) my|when(?:'s| is) my|"
    r"how (?:much|many) .*\b(?:do i|have i)\b (?:have|owe|left|used|spent)|"
    r"my (?:balance|order status|last (?:order|invoice|message|payment)|calendar|inbox|schedule)|"
    r"(?:status|balance|total) of my|show me my|remember (?:me|that i|my)|did i\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CachePolicy:
    """How one route uses the cache. The defaults are the product's."""

    threshold: float = 0.82  # least cosine similarity of a semantic hit
    verifier_bar: float = 0.46  # least score of the verifier
    ttl: float = 86_400.0  # seconds that an answer lives
    sliding: bool = False  # whether a hit starts the time anew
    layers: Literal["all", "exact", "none"] = "all"
    max_temperature: float = 1.0  # above it every answer is meant to differ
    volatile: bool = False  # whether time- or person-dependent prompts are cached
    max_tokens: int = 256  # longer prompts get no semantic lookup
    max_wait: float = 0.1  # seconds; a prompt that would wait longer to be embedded gets none


@dataclass(frozen=True)
class Plan:
    """What the policy decided for one request."""

    exact: bool  # look for the same request
    semantic: bool  # look for a request that means the same
    store: bool  # keep the provider's answer
    threshold: float
    ttl: float
    reason: str | None = None  # why something is off

    @property
    def used(self) -> bool:
        """Whether the request has to do with the cache at all."""
        return self.exact or self.semantic or self.store


def volatility(text: str) -> Literal["time", "person"] | None:
    """What makes an answer to `text` stale or personal, if anything does."""
    if _TIME.search(text):
        return "time"
    return "person" if _PERSON.search(text) else None


def plan(
    request: InferenceSubmission, text: str, policy: CachePolicy, *, tools: bool = False
) -> Plan:
    """How `request` uses the cache.

    A prompt whose answer depends on the time or the person is left alone, unless the route allows
    it or the request names a `ttl`: who says how long an answer holds has asked for it.
    """
    options: CacheOptions = request.cache
    threshold = policy.threshold if options.threshold is None else options.threshold
    ttl = policy.ttl if options.ttl is None else float(options.ttl)

    def decided(exact: bool, semantic: bool, store: bool, reason: str | None = None) -> Plan:
        return Plan(exact, semantic, store, threshold, ttl, reason)

    if options.mode == "off":
        return decided(False, False, False, "off")
    if policy.layers == "none":
        return decided(False, False, False, "route")
    if request.temperature is not None and request.temperature > policy.max_temperature:
        return decided(False, False, False, "temperature")
    if not policy.volatile and options.ttl is None:
        kind = volatility(text)
        if kind is not None:
            return decided(False, False, False, kind)
    if options.mode == "refresh":
        return decided(False, False, True, "refresh")
    if options.mode == "exact":
        return decided(True, False, True, "exact")
    if tools:
        return decided(True, False, True, "tools")
    if policy.layers == "exact":
        return decided(True, False, True, "route")
    if request.conversation()[-1].images:
        return decided(True, False, True, "images")
    return decided(True, True, True)


def storable(answer: Answer) -> bool:
    """Only a complete answer is worth repeating: never a truncated, filtered or empty one."""
    return answer.finish_reason == "stop" and bool(answer.text.strip())
