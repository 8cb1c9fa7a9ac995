"""Lua scripts: each a file in tasks/lua/, loaded once and called by its hash."""

from __future__ import annotations

from importlib import resources
from typing import Any

import redis

# What ends or frees work must also run when Redis is full (maxmemory); only `submit` is refused.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_PLAIN = "#!lua\n"


def load_script(client: redis.Redis, name: str, *, when_full: bool = True) -> Any:
    """The script `tasks/lua/{name}.lua` behind the common prelude, as a callable."""
    folder = resources.files("tasks") / "lua"
    text = (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return client.register_script((_ALLOW_OOM if when_full else _PLAIN) + text)
