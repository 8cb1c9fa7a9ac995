"""What RediSearch does on a real cluster, and the naming of keys that a cache there needs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import redis
from redis.commands.search.query import Query

from tests.deploy.redis_farm import Server, cluster

pytestmark = pytest.mark.slow

ENTRIES = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def client(nodes: list[Server]) -> Iterator[redis.RedisCluster]:
    with redis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as connected:
        yield connected


def vector(number: int) -> bytes:
    return np.array([1.0, number, 0.0, 0.0], dtype=np.float32).tobytes()


def fill(client: redis.RedisCluster, index: str, prefix: str) -> None:
    client.execute_command(
        "FT.CREATE", index, "ON", "HASH", "PREFIX", 1, prefix, "SCHEMA", "v", "VECTOR", "FLAT",
        6, "TYPE", "FLOAT32", "DIM", 4, "DISTANCE_METRIC", "COSINE",
    )  # fmt: skip
    for number in range(ENTRIES):
        client.hset(f"{prefix}{number}", mapping={"v": vector(number)})


def seen(client: redis.RedisCluster, index: str) -> int:
    """How many entries the index finds."""
    return int(client.ft(index).search(Query("*").no_content()).total)


def test_an_index_sees_only_the_node_that_holds_it(
    client: redis.RedisCluster, nodes: list[Server]
) -> None:
    fill(client, "plain", "plain:")
    total = sum(node.client.dbsize() for node in nodes)
    assert total == ENTRIES
    assert 0 < seen(client, "plain") < ENTRIES


def test_a_hash_tag_keeps_index_and_entries_together(client: redis.RedisCluster) -> None:
    fill(client, "{cache-7}:index", "{cache-7}:entry:")
    assert seen(client, "{cache-7}:index") == ENTRIES
    nearest = client.ft("{cache-7}:index").search(
        Query("*=>[KNN 1 @v $q AS s]").no_content().dialect(2), {"q": vector(17)}
    )
    assert [entry.id for entry in nearest.docs] == ["{cache-7}:entry:17"]


def test_tags_spread_over_the_nodes(client: redis.RedisCluster) -> None:
    owners = {str(client.get_node_from_key(f"{{cache-{tag}}}:index")) for tag in range(64)}
    assert len(owners) == 3
