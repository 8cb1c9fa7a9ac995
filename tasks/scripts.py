"""Lua scripts: each a file in tasks/lua/, loaded once and called by its hash."""

from __future__ import annotations

from importlib import resources
from typing import Any

import redis

# What ends or frees work must also run when Redis is full (maxmemory); only `submit` is refused.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
COMMON = ("prelude", "spend")
_PLAIN = "#!lua\n"


def load_script(
    client: redis.Redis, name: str, *, when_full: bool = True, before: tuple[str, ...] = ()
) -> Any:
    """The script `tasks/lua/{name}.lua` behind the common ones and `before`, as a callable."""
    folder = resources.files("tasks") / "lua"
    text = "".join(
        (folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*COMMON, *before, name)
    )
    return client.register_script((_ALLOW_OOM if when_full else _PLAIN) + text)
