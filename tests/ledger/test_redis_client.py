"""Our client on the library's connections: what is left out must not be missed."""

from __future__ import annotations

import pytest
import redis

from tasks.redis_client import connect


def test_a_connection_cut_while_idle_costs_nobody_an_error(redis_url: str) -> None:
    client, other = connect(redis_url), connect(redis_url)
    number = client.client_id()
    assert other.client_kill_filter(_id=str(number)) == 1
    assert client.ping()
    assert client.client_id() != number


def test_a_script_that_redis_has_forgotten_is_sent_again(redis_url: str, prefix: str) -> None:
    client = connect(redis_url)
    script = client.register_script(f"return '{prefix}'")
    assert script() == prefix.encode()
    client.script_flush()
    assert script() == prefix.encode()


def test_an_error_of_a_command_leaves_the_connection_whole(redis_url: str, prefix: str) -> None:
    client = connect(redis_url, pool_size=1)
    client.set(prefix, "text")
    number = client.client_id()
    with pytest.raises(redis.ResponseError):
        client.incr(prefix)
    assert client.get(prefix) == b"text"
    assert client.client_id() == number


def test_who_gets_no_connection_in_time_is_told(redis_url: str) -> None:
    client = connect(redis_url, timeout=0.05, pool_size=1)
    held = client.connection_pool.get_connection()
    with pytest.raises(redis.ConnectionError, match="No connection available"):
        client.ping()
    client.connection_pool.release(held)
    assert client.ping()


def test_a_connection_from_before_a_fork_is_not_handed_out_again(redis_url: str) -> None:
    client = connect(redis_url, pool_size=1)
    number = client.client_id()
    pool = client.connection_pool
    held = pool.get_connection()
    held.pid = -1  # another process's
    pool.release(held)
    assert not held.is_connected
    assert client.client_id() != number
