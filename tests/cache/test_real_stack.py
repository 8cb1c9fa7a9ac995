"""The cache in the whole product: what is judged, tagged and shared, over HTTP and real workers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests

from app.cli.tokens import mint
from app.stack.embedded import free_port
from tests.observe.conftest import read_samples
from tests.stack import RealStack, eventually, real_stack

pytestmark = pytest.mark.slow

MODEL = "gemma3-270m"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    port = free_port()
    with real_stack(
        tmp_path_factory.mktemp("cache"),
        workers=0,
        CACHE_SHADOW_RATE="1",
        CACHE_VERIFIER_BAR="0",  # every likeness is served, and is doubtful
        CACHE_SHARED_POOLS="beta=team,gamma=team",
    ) as running:
        running.env["PROMETHEUS_PORT"] = str(port)
        running.start_worker("worker1")
        yield running


def ask(stack: RealStack, prompt: str, tenant: str = "acme", **cache: Any) -> dict[str, Any]:
    """The result of a job that asks for `prompt`; the provider echoes it."""
    body = {"prompt": prompt, "model_preference": MODEL, "cache": cache}
    answer = stack.session(tenant=tenant).post(
        f"{stack.url}/v1/inference?wait=30", json=body, timeout=40
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


def stats(stack: RealStack, tenant: str = "acme") -> dict[str, Any]:
    found: dict[str, Any] = (
        stack.session(tenant=tenant).get(f"{stack.url}/v1/cache/stats", timeout=10).json()
    )
    return found


def top_entries(stack: RealStack, tenant: str) -> list[dict[str, Any]]:
    """The most used entries, once hits were written down."""
    eventually(lambda: bool(stats(stack, tenant)["top_entries"]), seconds=10, what="hits")
    found: list[dict[str, Any]] = stats(stack, tenant)["top_entries"]
    return found


def test_a_wrong_hit_is_found_out_and_the_prompt_gets_its_own_answer(stack: RealStack) -> None:
    # As answers they contradict each other.
    asked, reworded = "Yes, may dogs eat cooked rice?", "No, may dogs eat cooked rice?"
    assert not ask(stack, asked)["cache_hit"]
    served = ask(stack, reworded)
    assert (served["cache"]["layer"], served["response"]) == ("semantic", asked)
    eventually(lambda: stats(stack)["shadow"]["judged"] == 1, seconds=30, what="a judgement")
    told = stats(stack)
    assert told["shadow"]["wrong"] == 1
    assert told["error_estimate"]["rate"] == 1.0
    eventually(
        lambda: ask(stack, reworded)["response"] == reworded,
        seconds=30,
        what="the prompt's own answer",
    )
    assert ask(stack, reworded)["cache"]["layer"] == "exact"
    port = stack.env["PROMETHEUS_PORT"]
    samples = read_samples(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)
    assert samples["inferenceflow_cache_error_rate", (("pool", "tenant:acme"),)] == 1.0
    # Anybody may read the API's: no tenant is named there.
    assert "acme" not in requests.get(f"{stack.url}/v1/metrics", timeout=10).text
    assert all("prompt" not in one for one in top_entries(stack, "acme"))
    mine = stack.session(role="admin").get(f"{stack.url}/v1/cache/stats", timeout=10).json()
    assert asked in [one["prompt"] for one in mine["top_entries"]]


def test_a_tag_forgets_what_carries_it(stack: RealStack) -> None:
    ask(stack, "Name a river.", tags=["geo"])
    ask(stack, "Who wrote Hamlet?")
    admin = stack.session(role="admin")
    forgotten = admin.post(f"{stack.url}/v1/cache/invalidate", json={"tag": "geo"}, timeout=20)
    assert forgotten.json() == {"removed": 1}
    (entry,) = admin.get(f"{stack.url}/v1/admin/audit", timeout=20).json()["data"]
    assert (entry["action"], entry["detail"]) == ("cache.invalidate", {"tag": "geo"})
    assert not ask(stack, "Name a river.")["cache_hit"]
    assert ask(stack, "Who wrote Hamlet?")["cache_hit"]


def test_tenants_of_one_pool_share_and_no_other_does(stack: RealStack) -> None:
    prompt = "What is a fencing token?"
    assert not ask(stack, prompt, "beta")["cache_hit"]
    assert ask(stack, prompt, "gamma")["cache_hit"]
    assert ask(stack, "What are fencing tokens?", "gamma")["cache"]["layer"] == "semantic"
    assert not ask(stack, prompt, "acme")["cache_hit"]
    assert top_entries(stack, "beta") == top_entries(stack, "gamma")
    admin = stack.session(tenant="beta", role="admin")
    shared = admin.get(f"{stack.url}/v1/cache/stats", timeout=10).json()["top_entries"]
    assert all("prompt" not in one for one in shared)  # the other tenant's may be among them


def test_the_platform_empties_the_cache_of_everyone(stack: RealStack) -> None:
    asked = {tenant: f"What does {tenant} sell?" for tenant in ("acme", "beta")}
    for tenant, prompt in asked.items():
        ask(stack, prompt, tenant)
        assert ask(stack, prompt, tenant)["cache_hit"]
    url, body = f"{stack.url}/v1/cache/invalidate", {"everyone": True}
    assert stack.session(role="admin").post(url, json=body, timeout=20).status_code == 403
    operator = stack.session(role="admin")
    token = mint(
        stack.settings,
        user="root",
        tenant="ops",
        role="admin",
        expires=timedelta(hours=1),
        scopes=["platform", "admin", "jobs:read", "jobs:write"],
    )
    operator.headers["Authorization"] = f"Bearer {token}"
    assert operator.post(url, json=body, timeout=20).json() == {"removed": None}
    for tenant, prompt in asked.items():
        assert not ask(stack, prompt, tenant, mode="exact")["cache_hit"]
