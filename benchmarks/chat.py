"""Synchronous chat completions through our queue, beside LiteLLM's proxy and Portkey's gateway.

`benchmarks/peers.sh && python -m benchmarks.chat [--clients 1 32 128] [--seconds 8] [--repeats 3]`

All ask the same stub upstream, which answers after 50 ms. Each arm has the same cores: LiteLLM and
Portkey one process each, ours an API process, a worker process, Redis, housekeeping and clock. The
load and the upstream are on another core. The arms take turns. No two prompts are alike, so no
cache answers, but ours looks (embedding, search) and stores, unless it is told not to. Ours
records every job durably, the others record nothing.

The naive arm is a queue of the same parts with nothing of a product around it (`benchmarks/naive`):
Flask, Celery and requests, an API and a worker process and their Redis.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import requests

from app.stack.embedded import free_port
from benchmarks.load import Load, Target, load
from benchmarks.processes import Taken, running, taken, wait_for
from benchmarks.report import cell, write
from benchmarks.stack import MeasuredStack, NaiveStack, chat, different

UPSTREAM_MS = 50.0
KEY = "sk-benchmark"
OUR_PROCESSES = ("api", "worker1", "redis", "system", "beat")


@dataclass(frozen=True)
class Arm:
    """One gateway, ready."""

    target: Target
    body: bytes
    taken: Callable[[], Taken]


def _up(url: str) -> Callable[[], bool]:
    def up() -> bool:
        try:
            return requests.get(url, timeout=2).status_code < 500
        except requests.RequestException:
            return False

    return up


def _litellm(peers: Path, folder: Path, upstream: str, cores: str, stack: ExitStack) -> Arm:
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-4o-mini\n"
        f"    litellm_params: {{model: openai/gpt-4o-mini, api_base: '{upstream}', api_key: x}}\n"
        f"general_settings: {{master_key: {KEY}}}\n"
        "litellm_settings: {telemetry: false, set_verbose: false}\n"
    )
    process = stack.enter_context(
        running(
            [
                str(peers.resolve() / "litellm/bin/litellm"),
                *("--config", str(config), "--port", str(port), "--host", "127.0.0.1"),
                *("--num_workers", "1"),
            ],
            folder / "litellm.log",
            cores=cores,
            LITELLM_LOG="ERROR",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            PATH=f"{peers.resolve() / 'litellm/bin'}:{os.environ['PATH']}",
        )
    )
    wait_for("LiteLLM", _up(f"http://127.0.0.1:{port}/health/liveliness"), 240)
    target = Target(
        f"http://127.0.0.1:{port}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    )
    return Arm(target, chat("gpt-4o-mini"), lambda: taken([process.pid]))


def _portkey(peers: Path, folder: Path, upstream: str, cores: str, stack: ExitStack) -> Arm:
    port = free_port()
    server = peers.resolve() / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    process = stack.enter_context(
        running(
            ["node", str(server), f"--port={port}", "--headless"],
            folder / "portkey.log",
            cores=cores,
            NODE_ENV="production",
            TRUSTED_CUSTOM_HOSTS="127.0.0.1,localhost",
        )
    )
    wait_for("Portkey", _up(f"http://127.0.0.1:{port}/"), 60)
    target = Target(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        {
            "Authorization": f"Bearer {KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": upstream,
        },
    )
    return Arm(target, chat("gpt-4o-mini"), lambda: taken([process.pid]))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", default="1", help="of each arm; empty: any")
    parser.add_argument("--load-cores", type=int, nargs="*", default=[0])
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--arms", nargs="+", default=["ours", "naive", "litellm", "portkey"])
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    if arguments.load_cores:
        os.sched_setaffinity(0, arguments.load_cores)
    cores = arguments.cores
    found: dict[tuple[str, int], list[tuple[Load, float]]] = defaultdict(list)
    memory: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as exits:
        folder = Path(name)
        ours = MeasuredStack(folder, cores=cores, API_THREADS="256", MAX_WORKERS="128")
        exits.callback(ours.stop)
        ours.start_redis()
        ours.start_upstream(UPSTREAM_MS / 1000)
        upstream = f"http://127.0.0.1:{ours.provider_port}/v1"
        arms: dict[str, Arm] = {}
        if "ours" in arguments.arms:
            ours.start_api()
            ours.start_worker("worker1")
            ours.start_system()
            ours.start_beat()
            arms["ours"] = Arm(
                ours.target("/v1/chat/completions"),
                chat("gemma3-270m"),
                lambda: ours.taken(*OUR_PROCESSES),
            )
            # As the others: without looking for an answer that exists already.
            arms["ours, cache off"] = replace(
                arms["ours"],
                body=arms["ours"].body[:-1] + b', "cache": {"mode": "off"}}',
            )
        if "naive" in arguments.arms:
            naive = NaiveStack(folder, cores=cores, threads=128, upstream=upstream)
            exits.callback(naive.stop)
            naive.start()
            naive.start_worker()
            arms["naive"] = Arm(
                naive.target("/v1/chat/completions"),
                chat("gpt-4o-mini"),
                lambda: naive.taken("api", "worker", "redis"),
            )
        for arm, start in (("litellm", _litellm), ("portkey", _portkey)):
            if arm in arguments.arms:
                arms[arm] = start(arguments.peers, folder, upstream, cores, exits)
        for it in arms.values():  # what is loaded with the first requests
            load(it.target, different(it.body), clients=2, seconds=1, warm=4)
        rest = {arm: it.taken().megabytes for arm, it in arms.items()}
        for _, clients, (arm, it) in itertools.product(
            range(arguments.repeats), arguments.clients, arms.items()
        ):
            before = it.taken()
            run = load(it.target, different(it.body), clients=clients, seconds=arguments.seconds)
            after = it.taken()
            share = run.seconds / (run.seconds + 1.8)  # warm-up is in the CPU time
            cpu = 1000 * (after.cpu_seconds - before.cpu_seconds) * share / max(run.answered, 1)
            found[arm, clients].append((run, cpu))
            memory[arm] = rest[arm], max(memory.get(arm, (0.0, 0.0))[1], after.megabytes)
    rows = [
        {
            "arm": arm,
            "clients": str(clients),
            "answers/s": cell([run.rate for run, _ in runs]),
            "p50 ms": cell([run.p50 for run, _ in runs]),
            "added p50 ms": cell([run.p50 - UPSTREAM_MS for run, _ in runs], 1),
            "p99 ms": cell([run.p99 for run, _ in runs]),
            "CPU ms/answer": cell([cpu for _, cpu in runs], 2),
            "MB at rest": f"{memory[arm][0]:.0f}",
            "MB under load": f"{memory[arm][1]:.0f}",
            "not 2xx": str(sum(sum(r.statuses.values()) - r.answered for r, _ in runs)),
        }
        for (arm, clients), runs in sorted(found.items(), key=lambda item: item[0][1])
    ]
    data = [
        {"arm": arm, **asdict(run), "cpu_ms": cpu}
        for (arm, _), runs in found.items()
        for run, cpu in runs
    ]
    write(
        "chat",
        "python -m benchmarks.chat",
        rows,
        {"runs": data, "memory_mb": memory},
        arguments.out,
    )


if __name__ == "__main__":
    main()
