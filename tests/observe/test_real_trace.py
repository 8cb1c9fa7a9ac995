"""One trace from the HTTP request to the provider call and the webhook, over four processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.provider import FakeProvider
from tests.observe.collector import Collected, Collector
from tests.stack import RealStack, eventually
from tests.webhooks.receiver import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SERVER, CLIENT, CONSUMER = 2, 3, 5
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "xylophone"  # in every prompt here


@dataclass(frozen=True)
class Traced:
    stack: RealStack
    collector: Collector
    provider: FakeProvider
    receiver: Receiver

    def ask(self, prompt: str, trace_id: str, **fields: Any) -> dict[str, Any]:
        answer = self.stack.session().post(
            f"{self.stack.url}/v1/inference?wait=30",
            json={"prompt": f"{prompt} {SECRET}", "model_preference": "gemma3-270m", **fields},
            headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def trace(self, trace_id: str, *names: str) -> dict[str, Collected]:
        """The spans of a trace by name, when all `names` are there."""
        eventually(
            lambda: set(names) <= {span.name for span in self.collector.trace(trace_id)},
            seconds=20,
            what=f"{names} in trace {trace_id}",
        )
        return {span.name: span for span in self.collector.trace(trace_id)}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with Collector() as collector, Receiver() as receiver:
        stack = RealStack(
            tmp_path_factory.mktemp("trace"),
            {
                "TRACING": "on",
                "TRACING_FORWARD": "on",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "300",
                "WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
                "MAX_ATTEMPTS": "1",
            },
        )
        provider = FakeProvider(stack.provider_port)
        try:
            with provider:
                stack.start_redis()
                stack.start_api()
                stack.start_worker("worker1", wait=False)
                stack.start_webhooks(wait=False)
                stack.start_system()
                stack.start_beat()
                eventually(
                    lambda: (stack.folder / "worker1.heart").exists(),
                    seconds=60,
                    what="the worker",
                )
                yield Traced(stack, collector, provider, receiver)
        finally:
            stack.stop()


def test_one_trace_from_the_request_to_the_provider_and_the_webhook(traced: Traced) -> None:
    job = traced.ask("Where is the", TRACE, webhook_url=f"{traced.receiver.url}/hook")
    assert job["state"] == "succeeded"
    spans = traced.trace(
        TRACE,
        "POST /v1/inference", "cache lookup", "queue wait", "run normal", "chat gemma3-270m.gguf",
        "webhook delivery",
    )  # fmt: skip
    request, run = spans["POST /v1/inference"], spans["run normal"]
    call, delivery = spans["chat gemma3-270m.gguf"], spans["webhook delivery"]
    assert request.parent_id == "00f067aa0ba902b7"
    assert (request.kind, run.kind, call.kind, delivery.kind) == (SERVER, CONSUMER, CLIENT, CLIENT)
    assert {run.parent_id, spans["queue wait"].parent_id, delivery.parent_id} == {request.span_id}
    assert call.parent_id == run.span_id
    services = {span.service for span in spans.values()}
    assert services == {"inferenceflow-api", "inferenceflow-worker", "inferenceflow-webhooks"}
    assert request.attributes["http.response.status_code"] == 200
    assert run.attributes["inferenceflow.job.id"] == job["id"]
    assert run.attributes["inferenceflow.job.state"] == "succeeded"
    usage = job["result"]["usage"]
    assert call.attributes["gen_ai.usage.input_tokens"] == usage["input_tokens"]
    assert call.attributes["gen_ai.usage.output_tokens"] == usage["output_tokens"]
    waited_ms = spans["queue wait"].seconds * 1000
    assert round(waited_ms) == job["timing"]["queued_ms"]
    assert delivery.attributes["http.response.status_code"] == 204
    sent = traced.provider.seen[-1].headers["traceparent"]
    assert sent.split("-")[1:3] == [TRACE, call.span_id]
    assert f'"trace_id":"{TRACE}"' in traced.stack.log("worker1")


def test_an_exact_repeat_ends_at_the_cache(traced: Traced) -> None:
    first, second = "a" * 32, "b" * 32
    traced.ask("Who plays the", first, temperature=0)
    traced.trace(first, "POST /v1/inference", "run normal")
    assert traced.ask("Who plays the", second, temperature=0)["result"]["cache_hit"]
    spans = traced.trace(second, "POST /v1/inference", "cache lookup")
    assert spans["cache lookup"].attributes["inferenceflow.cache.layer"] == "exact"
    assert set(spans) == {"POST /v1/inference", "cache lookup"}


def test_a_failed_call_says_of_what_kind(traced: Traced) -> None:
    trace = "c" * 32
    traced.provider.behave(mode="status", status=400, message=f"bad prompt: {SECRET}")
    try:
        job = traced.ask("Who broke the", trace)
    finally:
        traced.provider.behave()
    assert job["state"] == "failed"
    spans = traced.trace(trace, "run normal", "chat gemma3-270m.gguf")
    assert spans["run normal"].failed
    assert spans["chat gemma3-270m.gguf"].attributes["error.type"] == job["error"]["type"]


def test_what_is_left_is_sent_at_the_end_and_no_prompt_ever(traced: Traced) -> None:
    """The last test here: it starts API and worker anew, and stops them."""
    stack, names = traced.stack, ("api", "worker1")

    def stop() -> None:
        for name in names:
            stack.processes[name].terminate()
            stack.processes[name].wait(60)

    stop()
    stack.env["OTEL_BSP_SCHEDULE_DELAY"] = "600000"
    stack.start_api()
    stack.start_worker("worker1")
    trace = "d" * 32
    traced.ask("Stop the", trace)
    assert not traced.collector.trace(trace)
    stop()
    traced.trace(trace, "POST /v1/inference", "run normal")
    for body in traced.collector.raw:
        assert SECRET.encode() not in body
