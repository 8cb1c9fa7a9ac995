"""Spans, one by one, in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import opentelemetry.semconv._incubating.attributes.gen_ai_attributes as conventions
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from config.catalogue import ProviderConfig, load_catalogue
from config.settings import BadSettingsError, Settings, load_settings
from tasks.inference import GenerationParams
from tasks.otel import OpenTelemetry
from tasks.tracing import NO_TRACING, open_tracing, parent_headers
from tests.fakes.provider import FakeProvider
from tests.stack import ROOT
from workers.providers.base import CallLimits
from workers.providers.errors import ProviderError
from workers.providers.registry import build_providers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Memory:
    """A tracing whose spans stay in memory."""

    tracing: OpenTelemetry
    provider: TracerProvider
    exporter: InMemorySpanExporter

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def memory() -> Iterator[Memory]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = Memory(OpenTelemetry(provider, forward=True), provider, exporter)
    yield made
    made.tracing.close()


def test_steps_nest(memory: Memory) -> None:
    headers = parent_headers(PARENT)
    with memory.tracing.span("outer", "server", parent=headers) as outer:
        with memory.tracing.span("inner") as inner:
            inner.add({"known": 1, "unknown": None})
        assert outer.log_fields() == {"trace_id": TRACE}
    spans = memory.spans()
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert spans["inner"].parent.span_id == spans["outer"].context.span_id
    assert f"{spans['outer'].parent.span_id:016x}" == "00f067aa0ba902b7"
    assert spans["outer"].kind is SpanKind.SERVER
    assert spans["inner"].attributes == {"known": 1}


def test_a_record_carries_the_trace_on(memory: Memory) -> None:
    with memory.tracing.span("request") as request:
        kept = request.traceparent
    memory.tracing.past("wait", 1_000, 3_500, parent=parent_headers(kept))
    spans = memory.spans()
    assert spans["wait"].context.trace_id == spans["request"].context.trace_id
    assert spans["wait"].end_time - spans["wait"].start_time == 2_500_000_000


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": ""}])
def test_headers_that_say_nothing_begin_a_trace(memory: Memory, headers: dict[str, str]) -> None:
    with memory.tracing.span("around"), memory.tracing.span("request", parent=headers):
        pass
    spans = memory.spans()
    assert spans["request"].parent is None
    assert spans["request"].context.trace_id != spans["around"].context.trace_id


def test_a_caller_that_is_not_sampled_is_followed(memory: Memory) -> None:
    with memory.tracing.span("request", parent=parent_headers(PARENT[:-1] + "0")) as span:
        assert span.traceparent.endswith("-00")
    assert not memory.spans()


def test_an_exception_leaves_its_type_alone(memory: Memory) -> None:
    with pytest.raises(ValueError, match="a secret prompt"), memory.tracing.span("request"):
        raise ValueError("a secret prompt")
    span = memory.spans()["request"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes == {"error.type": "ValueError"}
    assert not span.events
    assert "secret" not in span.to_json()


def test_a_provider_call_in_the_words_of_the_conventions(memory: Memory) -> None:
    with FakeProvider() as fake:
        providers = build_providers(
            load_catalogue(),
            {"google": ProviderConfig("a-key", fake.url), "local": ProviderConfig(None, fake.url)},
            memory.tracing,
        )

        def ask(name: str, model: str) -> None:
            providers[name].generate(
                "a secret prompt",
                model,
                params=GenerationParams(max_tokens=7, temperature=0.5, stop=["secret stop"]),
                limits=CallLimits(time.monotonic() + 20),
            )

        fake.behave(text="a secret answer")
        with memory.tracing.span("run"):
            ask("local", "gemma3-270m.gguf")
        ask("google", "gemini-3.8-flash")
        fake.behave(mode="status", status=500, message="I cannot answer: a secret prompt")
        with pytest.raises(ProviderError) as failure:
            ask("local", "broken")
        for provider in providers.values():
            provider.close()
        sent = fake.seen[0].headers["traceparent"]
    spans = memory.spans()
    good = spans["chat gemma3-270m.gguf"]
    assert good.kind is SpanKind.CLIENT
    # The provider's own spans become children of the call.
    assert sent.startswith(f"00-{good.context.trace_id:032x}-{good.context.span_id:016x}-")
    named = {**good.attributes}
    assert named.pop("gen_ai.usage.input_tokens") > 0
    assert named.pop("gen_ai.usage.output_tokens") == 3
    assert named == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "local",
        "gen_ai.request.model": "gemma3-270m.gguf",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "gemma3-270m.gguf",
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "127.0.0.1",
        "inferenceflow.cost": 0.0,
    }
    assert spans["chat gemini-3.8-flash"].attributes["gen_ai.provider.name"] == "gcp.gemini"
    bad = spans["chat broken"]
    assert bad.status.status_code is StatusCode.ERROR
    assert bad.status.description is None
    assert bad.attributes["error.type"] == failure.value.type
    for span in spans.values():
        assert "secret" not in span.to_json()
    known = {value for name, value in vars(conventions).items() if name.isupper()}
    assert {name for name in named if name.startswith("gen_ai.")} <= known


def test_providers_learn_nothing_unless_told(memory: Memory) -> None:
    silent = OpenTelemetry(memory.provider)
    with silent.span("run"):
        assert silent.outgoing_headers() == {}
        assert memory.tracing.outgoing_headers()["traceparent"]


def test_off_by_default() -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert open_tracing(settings, "inferenceflow-api") is NO_TRACING
    with NO_TRACING.span("nothing") as span:
        assert span.traceparent is None
        assert span.log_fields() == {}


@pytest.mark.slow
def test_off_costs_no_import() -> None:
    """redis-py imports OpenTelemetry's metrics wherever they are installed; that is not ours."""
    program = "import sys, app.wsgi; print(*sys.modules)"
    ours = {"tasks.otel", "opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf"}
    for tracing, imported in (("off", set()), ("on", ours)):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "TRACING": tracing},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ours & set(ran.stdout.split()) == imported


def test_what_is_missing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setenv("TRACING", "on")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # as where nothing is installed
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BadSettingsError, match=r"inferenceflow\[traces\]"):
        load_settings()
