"""What the settings and the catalogue say of caching: the same in the API and on workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import orjson

from config.catalogue import Catalogue
from config.settings import Settings
from tasks.cache_policy import CachePolicy
from tasks.fingerprint import Scope, digest, scope_of, shared_pool, tenant_pool
from tasks.inference import InferenceSubmission


@dataclass(frozen=True)
class CacheRules:
    """Whose answers serve whom, how a name's answers are cached, and what stands behind it."""

    base: CachePolicy = field(default_factory=CachePolicy)
    policies: Mapping[str, CachePolicy] = field(default_factory=dict)  # by model, route, `auto`
    revisions: Mapping[str, str] = field(default_factory=dict)  # by the same
    shared: Mapping[str, str] = field(default_factory=dict)  # tenant -> pool

    def pool(self, tenant: str) -> str:
        """The pool whose answers `tenant` gets and adds to."""
        name = self.shared.get(tenant)
        return tenant_pool(tenant) if name is None else shared_pool(name)

    def policy(self, name: str) -> CachePolicy:
        """How answers to requests for `name` are cached."""
        return self.policies.get(name, self.base)

    def revision(self, name: str) -> str:
        """What stands behind `name` now: it changes when another model answers for it."""
        return self.revisions.get(name, "")

    def scope(self, request: InferenceSubmission, tenant: str) -> Scope:
        """The scope of a tenant's request."""
        return scope_of(
            request, pool=self.pool(tenant), revision=self.revision(request.model_preference)
        )


def configured_rules(settings: Settings, catalogue: Catalogue) -> CacheRules:
    """The rules as they are configured."""
    base = CachePolicy(
        threshold=settings.similarity_threshold,
        verifier_bar=settings.cache_verifier_bar,
        ttl=settings.cache_ttl,
        sliding=settings.cache_sliding_ttl,
        layers="all" if settings.cache_semantic else "exact",
        max_wait=settings.cache_wait_seconds,
    )
    names = catalogue.names()
    return CacheRules(
        base=base,
        policies={
            name: replace(base, **catalogue.cache_spec(name).model_dump(exclude_none=True))
            for name in names
        },
        revisions={name: digest(orjson.dumps(catalogue.offers_of(name)))[:12] for name in names},
        shared=settings.cache_shared_pools,
    )
