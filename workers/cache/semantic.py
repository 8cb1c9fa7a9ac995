"""The vector index: which stored prompts are near a new one, within one partition.

Uses redisvl's index and query classes with a schema of our own. The answers themselves are not in
the index (`tasks/exact_cache.py` holds them); a document is a vector, its partition, and what
invalidation filters by. Similarities here are cosine similarities, 1.0 for equal directions;
RediSearch speaks of distances, 1 - similarity, and nothing outside this module sees one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import redis
from redisvl.exceptions import RedisVLError
from redisvl.index import SearchIndex
from redisvl.query import VectorQuery
from redisvl.query.filter import Tag

from tasks.cache_uses import documents_key
from tasks.fingerprint import Scope, digest
from workers.cache.embedding import Vectors

VECTOR = "vector"
DISTANCE = "vector_distance"


@dataclass(frozen=True)
class Neighbour:
    """A stored prompt that is near."""

    fingerprint: str
    similarity: float  # cosine


def partition_of(scope: Scope, build: str) -> str:
    """The TAG that a lookup is confined to: the scope, and the vector space."""
    return digest("partition-1", scope.digest, build)


def index_schema(
    prefix: str, build: str, width: int, algorithm: Literal["hnsw", "flat"]
) -> dict[str, Any]:
    """The index of one embedder build. Another build gets another index: they never mix."""
    name = f"{prefix}:index:{digest(build)[:12]}"
    attributes: dict[str, Any] = {
        "dims": width,
        "distance_metric": "cosine",
        "datatype": "float32",
        "algorithm": algorithm,
    }
    if algorithm == "hnsw":
        attributes |= {"m": 16, "ef_construction": 200, "ef_runtime": 64}
    return {
        "index": {
            "name": name,
            "prefix": f"{prefix}:doc:{digest(build)[:12]}",
            "storage_type": "hash",
        },
        "fields": [
            {"name": "partition", "type": "tag", "attrs": {"case_sensitive": True}},
            {"name": VECTOR, "type": "vector", "attrs": attributes},
        ],
    }


class SemanticIndex:
    """The vector index of one embedder build."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        build: str,
        width: int,
        *,
        algorithm: Literal["hnsw", "flat"] = "hnsw",
        results: int = 3,
    ) -> None:
        self._index = SearchIndex.from_dict(
            index_schema(prefix, build, width, algorithm), redis_client=client
        )
        self._client, self._prefix, self._results = client, prefix, results
        self.name = self._index.name
        self.document_prefix = f"{self._index.prefix}:"

    def create(self) -> None:
        """Make the index unless it is there. Raises redis.RedisError."""
        try:
            if not self._index.exists():
                self._index.create(overwrite=False)
            self._client.sadd(documents_key(self._prefix), self.document_prefix)
        except RedisVLError as error:
            raise redis.RedisError(str(error)) from error

    def drop(self) -> None:
        """Remove the index and its documents."""
        self._index.delete(drop=True)

    def document_key(self, fingerprint: str) -> str:
        """Where the document of an entry lies."""
        return self.document_prefix + fingerprint

    def query(self, partition: str, vector: Vectors) -> VectorQuery:
        """The nearest few documents of `partition`; redisvl escapes the tag."""
        return VectorQuery(
            vector=vector.tobytes(),
            vector_field_name=VECTOR,
            return_fields=[DISTANCE],
            filter_expression=Tag("partition") == partition,
            num_results=self._results,
            dtype="float32",
            return_score=True,
        )

    def nearest(self, lookups: list[tuple[str, Vectors]]) -> list[list[Neighbour]]:
        """For each (partition, vector) the nearest documents, best first, in one round trip.

        Raises redis.RedisError.
        """
        queries = [self.query(partition, vector) for partition, vector in lookups]
        try:
            found = self._index.batch_query(queries, batch_size=max(1, len(queries)))
        except RedisVLError as error:
            raise redis.RedisError(str(error)) from error
        return [[self._neighbour(document) for document in documents] for documents in found]

    def _neighbour(self, document: dict[str, Any]) -> Neighbour:
        fingerprint = str(document["id"]).removeprefix(self.document_prefix)
        return Neighbour(fingerprint, 1.0 - float(document[DISTANCE]))

    def info(self) -> dict[str, Any]:
        """RediSearch's own figures on the index."""
        found: dict[str, Any] = self._index.info()
        return found
