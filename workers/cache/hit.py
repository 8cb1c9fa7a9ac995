"""A request as the cache reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tasks.cache_policy import CachePolicy, Plan
from tasks.fingerprint import Scope, fingerprint


@dataclass(frozen=True)
class Lookup:
    """One request as the cache reads it."""

    text: str
    scope: Scope
    plan: Plan
    policy: CachePolicy
    tags: tuple[str, ...] = ()  # that the stored answer shall have

    @cached_property
    def fingerprint(self) -> str:
        """The exact name of the request."""
        return fingerprint(self.scope, self.text)
