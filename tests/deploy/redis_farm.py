"""Several real Redis processes on loopback: a primary with replicas, Sentinels, a cluster."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from app.stack.embedded import free_port, redis_command, redis_server, redisearch_module

PRIMARY = "mymaster"
DOWN_AFTER_MS = 1500


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        pause.wait(0.05)


@dataclass
class Server:
    """One Redis process."""

    port: int
    command: list[str]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _alive(server: Server) -> None:
    wait_until(server.client.ping, 20, f"Redis on {server.port} answers")


@dataclass
class SentinelGroup:
    """A primary, its replica, and three Sentinels that agree by two."""

    servers: list[Server]
    sentinels: list[Server]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://{hosts}/{PRIMARY}/0"

    def primary(self) -> Server:
        """Whom the first Sentinel calls the primary."""
        _host, port = self.sentinels[0].client.sentinel_get_master_addr_by_name(PRIMARY)
        return next(server for server in self.servers if server.port == int(port))

    def replicated(self) -> bool:
        """Whether the primary has a replica that is in step."""
        found = self.primary().client.info("replication")
        return any(
            isinstance(value, dict) and value.get("state") == "online" for value in found.values()
        )


@contextlib.contextmanager
def sentinel_group(folder: Path) -> Iterator[SentinelGroup]:
    """One primary, one replica, three Sentinels; gone when the block ends."""
    everything: list[Server] = []
    try:
        group = SentinelGroup([], [])
        for _ in range(2):
            port = free_port()
            data = folder / str(port)
            data.mkdir()
            command = [*redis_command(port, data), "--repl-diskless-sync-delay", "0"]
            if group.servers:
                command += ["--replicaof", f"127.0.0.1 {group.servers[0].port}"]
            group.servers.append(Server(port, command))
            everything.append(group.servers[-1])
            _alive(group.servers[-1])
        for _ in range(3):
            port = free_port()
            file = folder / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {PRIMARY} 127.0.0.1 {group.servers[0].port} 2\n"
                f"sentinel down-after-milliseconds {PRIMARY} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {PRIMARY} 6000\n"
            )
            group.sentinels.append(Server(port, [str(redis_server()), str(file), "--sentinel"]))
            everything.append(group.sentinels[-1])
        for sentinel in group.sentinels:
            _alive(sentinel)
        wait_until(group.replicated, 30, "the replica is in step")
        for sentinel in group.sentinels:

            def agreed(client: redis.Redis = sentinel.client) -> bool:
                state = client.sentinel_master(PRIMARY)
                return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)

            wait_until(agreed, 30, "the Sentinels know each other and the replica")
        yield group
    finally:
        for server in everything:
            server.kill()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[list[Server]]:
    """Three nodes with RediSearch that share the 16,384 slots."""
    nodes: list[Server] = []
    try:
        for _ in range(3):
            port = free_port()
            data = folder / str(port)
            data.mkdir()
            command = [
                str(redis_server()), "--port", str(port), "--bind", "127.0.0.1",
                "--dir", str(data), "--save", "", "--cluster-enabled", "yes",
                "--cluster-port", str(free_port()), "--loadmodule", str(redisearch_module()),
            ]  # fmt: skip
            nodes.append(Server(port, command))
            _alive(nodes[-1])
        for number, (first, last) in enumerate(((0, 5460), (5461, 10922), (10923, 16383))):
            client = nodes[number].client
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            bus = node.command[node.command.index("--cluster-port") + 1]
            nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in nodes:

            def whole(client: redis.Redis = node.client) -> bool:
                state = client.execute_command("CLUSTER INFO")
                return bool(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3")

            wait_until(whole, 30, "the cluster is whole")
        yield nodes
    finally:
        for node in nodes:
            node.kill()
