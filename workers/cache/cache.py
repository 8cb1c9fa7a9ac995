"""The cache as the rest of the product sees it: look up, store, invalidate, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import redis

from tasks.cache_hit import CacheHit, hit_of
from tasks.cache_judgements import verifier_key
from tasks.cache_policy import plan, storable
from tasks.cache_rules import CacheRules
from tasks.cache_stats import pool_report, whole_report
from tasks.cache_uses import CacheUses
from tasks.exact_cache import Answer, Entry, ExactCache, Generations
from tasks.fingerprint import (
    last_user_text,
    scope_of,
    tenant_pool,
)
from tasks.inference import InferenceSubmission
from workers.cache.embedding import Embedder, Vectors
from workers.cache.evidence import Evidence, EvidenceBook
from workers.cache.hit import Lookup
from workers.cache.semantic import Neighbour, SemanticIndex, partition_of
from workers.cache.store import AnswerStore
from workers.cache.verifier import Verdict, Verifier


@dataclass
class Found:
    """What became of one lookup, and what storing an answer to it need not ask for again."""

    hit: CacheHit | None = None
    vector: Vectors | None = None  # of the text, if it was needed
    # An answer is stored under the counters of the time when it was wanted: what is invalidated
    # while a provider works on it stays invalidated.
    generations: Generations | None = None
    counters: Counter[str] = field(default_factory=Counter)


class SemanticCache:
    """Exact, then semantic, then a miss. Thread-safe; when Redis is away everything is a miss."""

    def __init__(
        self,
        client: redis.Redis,
        embedder: Embedder,
        verifier: Verifier | None,
        *,
        prefix: str = "cache",
        rules: CacheRules | None = None,
        max_bytes: int = 512 * 2**20,
        algorithm: Literal["hnsw", "flat"] = "hnsw",
        embedding_delay: Callable[[], float] = lambda: 0.0,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        """`on_event` hears hit_exact, hit_semantic, miss, veto_<why>, skipped_busy,
        failed_<operation>.

        Without a verifier there are no semantic hits. `embedding_delay` tells how many seconds a
        text given now would wait for the embedder; beyond the rules' `max_wait` prompts are
        looked up and stored by their exact text alone: a saturated worker must not be slowed
        further by what is meant to save it work.
        """
        self.rules = rules or CacheRules()
        self.embedder, self.verifier, self._on_event = embedder, verifier, on_event
        self.exact = ExactCache(client, prefix, on_failure=lambda what: on_event(f"failed_{what}"))
        self.index = SemanticIndex(
            client, prefix, embedder.build, embedder.width, algorithm=algorithm
        )
        self.store = AnswerStore(self.exact, self.index, max_bytes=max_bytes)
        self.evidence = EvidenceBook(client, prefix, verifier.build if verifier else "")
        self.uses = CacheUses(client, prefix)
        self._client = client
        self._embedding_delay = embedding_delay
        self._index_ready = False

    # Looking up

    def get_similar_cached_response(
        self,
        prompt: str,
        threshold: float | None = None,
        *,
        request: InferenceSubmission | None = None,
        pool: str = tenant_pool(""),
        revision: str | None = None,
        tools: Sequence[object] = (),
    ) -> CacheHit | None:
        """The stored answer that serves `prompt`, or None.

        Without a `request` the prompt stands alone, with default parameters. `threshold` is a
        cosine similarity; the request's own goes before it, the policy's comes last.
        """
        asked = request or InferenceSubmission(prompt=prompt)
        lookup = self.read(asked, pool=pool, revision=revision, tools=tools)
        if threshold is not None and asked.cache.threshold is None:
            lookup = replace(lookup, plan=replace(lookup.plan, threshold=threshold))
        return self.look_up([lookup])[0]

    def read(
        self,
        request: InferenceSubmission,
        *,
        pool: str,
        revision: str | None = None,
        tools: Sequence[object] = (),
    ) -> Lookup:
        """`request` as the cache reads it; the rules know the revision where none is given."""
        text, name = last_user_text(request), request.model_preference
        if revision is None:
            revision = self.rules.revision(name)
        scope = scope_of(request, pool=pool, revision=revision, tools=tools)
        policy = self.rules.policy(name)
        decided = plan(request, text, policy, tools=bool(tools))
        return Lookup(text, scope, decided, policy, tuple(request.cache.tags))

    def look_up(self, lookups: Sequence[Lookup]) -> list[CacheHit | None]:
        """The stored answer for each lookup, or None."""
        return [found.hit for found in self.search(lookups)]

    def search(self, lookups: Sequence[Lookup]) -> list[Found]:
        """As `look_up`, with what `store_answer` can use again."""
        seen = [Found() for _ in lookups]
        try:
            generations = self._look_exactly(lookups, seen)
            self._look_semantically(lookups, seen, generations)
            self._record(lookups, seen)
        except redis.RedisError as error:
            self._index_ready = False  # Redis may come back empty
            self.exact.failed("lookup", error)
        for one in seen:
            for event in one.counters:
                self._on_event(event)
        return seen

    def repeats(self, lookups: Sequence[Lookup]) -> list[CacheHit | None]:
        """The stored answers to exactly these requests, in one round trip.

        Only hits are counted: what is not found here is looked up again by meaning.
        """
        seen = [Found() for _ in lookups]
        try:
            self._look_exactly(lookups, seen)
            hits = [(lookup, one) for lookup, one in zip(lookups, seen, strict=True) if one.hit]
            self._record([lookup for lookup, _ in hits], [one for _, one in hits])
        except redis.RedisError as error:
            self.exact.failed("lookup", error)
        for one in seen:
            for event in one.counters:
                self._on_event(event)
        return [one.hit for one in seen]

    def _look_exactly(self, lookups: Sequence[Lookup], seen: list[Found]) -> dict[str, Generations]:
        pools = sorted({lookup.scope.pool for lookup in lookups})
        keys = [key for pool in pools for key in self.exact.generation_keys(pool)]
        keys += [self.exact.entry_key(lookup.fingerprint) for lookup in lookups]
        values = cast("list[bytes | None]", self._client.mget(keys)) if lookups else []
        generations = {
            pool: Generations(int(values[2 * i] or 0), int(values[2 * i + 1] or 0))
            for i, pool in enumerate(pools)
        }
        for lookup, one, data in zip(lookups, seen, values[2 * len(pools) :], strict=True):
            one.generations = generations[lookup.scope.pool]
            if lookup.plan.exact:
                entry = self.exact.read(data, generations[lookup.scope.pool])
                if entry is not None:
                    one.hit = hit_of(entry, "exact", 1.0, None)
        return generations

    def _look_semantically(
        self, lookups: Sequence[Lookup], seen: list[Found], generations: dict[str, Generations]
    ) -> None:
        verifier = self.verifier
        if verifier is None:
            return
        open_ = [
            (lookup, one)
            for lookup, one in zip(lookups, seen, strict=True)
            if one.hit is None and lookup.plan.semantic and self._short_enough(lookup.text)
        ]
        if open_ and self._busy():
            for _, one in open_:
                one.counters["skipped_busy"] += 1
            return
        if not open_ or not self._ensure_index():
            return
        vectors = self.embedder.embed([lookup.text for lookup, _ in open_])
        partitions = [partition_of(lookup.scope, self.embedder.build) for lookup, _ in open_]
        found = self.index.nearest(list(zip(partitions, vectors, strict=True)))
        for (lookup, one), vector, neighbours in zip(open_, vectors, found, strict=True):
            one.vector = vector
            near = [n for n in neighbours if n.similarity >= lookup.plan.threshold]
            if near:
                self._verify(verifier, lookup, one, near, generations[lookup.scope.pool])

    def _verify(
        self,
        verifier: Verifier,
        lookup: Lookup,
        one: Found,
        near: list[Neighbour],
        generations: Generations,
    ) -> None:
        names = [neighbour.fingerprint for neighbour in near]
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.mget([self.exact.entry_key(name) for name in names])
            self.evidence.ask(pipeline, lookup.scope.pool, lookup.fingerprint, names)
            entries, *answers = pipeline.execute()
        for neighbour, data, against in zip(
            near, entries, self.evidence.heard(*answers), strict=True
        ):
            entry = self.exact.read(data, generations)
            # The scope is compared once more: the index alone is never believed.
            if entry is None or entry.scope != lookup.scope.digest:
                continue
            verdict = self._judge(verifier, lookup, entry.prompt, against)
            if verdict.accepted:
                one.hit = hit_of(entry, "semantic", neighbour.similarity, verdict.score)
                return
            one.counters[f"veto_{verdict.veto}"] += 1

    def _judge(self, verifier: Verifier, lookup: Lookup, stored: str, against: Evidence) -> Verdict:
        if against.wrong:
            return Verdict(0.0, "known_wrong")
        return verifier.judge(lookup.text, stored, max(lookup.policy.verifier_bar, against.bar))

    def _busy(self) -> bool:
        return self._embedding_delay() > self.rules.base.max_wait

    def _short_enough(self, text: str) -> bool:
        limit = min(self.rules.base.max_tokens, self.embedder.max_tokens)
        # A token is at least one character: most texts need no counting.
        return len(text) + 2 <= limit or self.embedder.count_tokens(text) <= limit

    def _record(self, lookups: Sequence[Lookup], seen: list[Found]) -> None:
        for lookup, one in zip(lookups, seen, strict=True):
            slides = lookup.policy.sliding
            self.uses.add(lookup.scope.pool, one.counters, one.hit, slides=slides)
            one.counters["miss" if one.hit is None else f"hit_{one.hit.layer}"] += 1

    # Storing

    def cache_response(
        self,
        prompt: str,
        response: Answer,
        embedding: Vectors | None = None,
        *,
        request: InferenceSubmission | None = None,
        pool: str = tenant_pool(""),
        revision: str | None = None,
        tools: Sequence[object] = (),
    ) -> bool:
        """Keep `response` as the answer to `prompt`; False when policy, size or Redis forbid it.

        `embedding` saves computing the vector when the caller has it: float32, unit length.
        """
        asked = request or InferenceSubmission(prompt=prompt)
        lookup = self.read(asked, pool=pool, revision=revision, tools=tools)
        return self.store_answer(lookup, response, embedding)

    def store_answer(
        self,
        lookup: Lookup,
        response: Answer,
        embedding: Vectors | None = None,
        *,
        generations: Generations | None = None,
    ) -> bool:
        """As `cache_response`, for a request that was read, and maybe searched for, already."""
        if not lookup.plan.store or not storable(response):
            return False
        entry = Entry(
            fingerprint=lookup.fingerprint,
            pool=lookup.scope.pool,
            scope=lookup.scope.digest,
            prompt=lookup.text,
            answer=response,
            created=time.time(),
            ttl=lookup.plan.ttl,
            tags=lookup.tags,
        )
        try:
            vector = self._vector(lookup, embedding)
            partition = partition_of(lookup.scope, self.embedder.build)
            return self.store.put(entry, partition, vector, generations) >= 0
        except redis.RedisError as error:
            self._index_ready = False
            self.exact.failed("store", error)
            return False

    def _vector(self, lookup: Lookup, embedding: Vectors | None) -> Vectors | None:
        searchable = lookup.policy.layers == "all" and not lookup.scope.images.strip("[]")
        if not searchable or not self._short_enough(lookup.text) or not self._ensure_index():
            return None
        if embedding is not None:
            return embedding
        if self._busy():
            return None
        vector: Vectors = self.embedder.embed([lookup.text])[0]
        return vector

    def _ensure_index(self) -> bool:
        if not self._index_ready:
            self.index.create()
            self._client.set(verifier_key(self.exact.prefix), self.evidence.build)
            self._index_ready = True
        return True

    # Forgetting

    def invalidate_cache(
        self,
        pattern: str | None = None,
        *,
        pool: str | None = None,
        model: str | None = None,
        tag: str | None = None,
        older_than: float | None = None,
    ) -> int:
        """Remove the entries that meet every condition given; returns how many.

        `pattern` is a glob over the stored prompt, without regard to case; `model` the model that
        answered; `older_than` seconds. With no condition, or `pool` alone, a counter is raised,
        which is instant however many there are, and raised bars are taken back; -1 is returned
        then. Raises redis.RedisError.
        """
        if pattern is None and model is None and tag is None and older_than is None:
            everyone, one_pool = self.exact.generation_keys(pool or "")
            self._client.incr(everyone if pool is None else one_pool)
            self.evidence.begin_anew(pool)
            return -1
        now = time.time()
        doomed = [
            entry.fingerprint
            for entry in self.store.every_entry()
            if (pool is None or entry.pool == pool)
            and (model is None or entry.answer.model == model)
            and (tag is None or tag in entry.tags)
            and (older_than is None or entry.age(now) > older_than)
            and (pattern is None or fnmatchcase(entry.prompt.lower(), pattern.lower()))
        ]
        return self.remove(doomed)

    def remove(self, fingerprints: Sequence[str]) -> int:
        """Remove entries by name, with what was learned of them."""
        with self._client.pipeline() as pipeline:
            self.evidence.forget_entries(pipeline, fingerprints)
            pipeline.execute()
        return self.store.remove(fingerprints)

    def answer_was_wrong(
        self, request: InferenceSubmission, served: str, *, pool: str, revision: str | None = None
    ) -> bool:
        """A user says that the answer served was wrong: remove it, never serve the pair again.

        `served` is the fingerprint of the entry that was served; False if `pool` has no such one.
        """
        lookup = self.read(request, pool=pool, revision=revision)
        entry = self.exact.get(served, pool)
        if entry is None or entry.pool != pool:
            return False
        self.evidence.refuse(lookup.fingerprint, served)
        self.remove([served])
        with self._client.pipeline() as pipeline:
            self.evidence.count(pipeline, pool, {"reported_wrong": 1})
            pipeline.execute()
        return True

    # Counting

    def get_cache_stats(self, pool: str | None = None) -> dict[str, Any]:
        """What the cache did for one pool or for all. Raises redis.RedisError."""
        self.uses.flush()
        prefix = self.exact.prefix
        if pool is None:
            report = whole_report(self._client, prefix)
        else:
            bar = self.rules.base.verifier_bar
            report = pool_report(self._client, prefix, pool, bar, prompts=True)
        report["embedder"] = self.embedder.build
        report["verifier"] = None if self.verifier is None else self.verifier.build
        return report
