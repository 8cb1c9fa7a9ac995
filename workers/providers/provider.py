"""A provider over HTTP: one dialect, one pooled session, one key."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import orjson

from config.catalogue import ModelSpec, ProviderSpec
from tasks.cost import cost
from tasks.inference import GenerationParams, Message, Usage
from tasks.tracing import NO_TRACING, Tracing
from workers.providers.base import CallLimits, Completion, ProviderStatus
from workers.providers.dialect import Answer, Call, Dialect
from workers.providers.errors import (
    BadRequest,
    ContentFiltered,
    EmptyAnswer,
    ProviderError,
    ProviderUnreachable,
)
from workers.providers.failures import error_from
from workers.providers.genai import answered, asked
from workers.providers.retry_after import Headroom, headroom
from workers.providers.sse import event_data
from workers.providers.tokens import estimate_tokens
from workers.providers.transport import Reply, Transport

STATUS_SECONDS = 3.0
ESTIMATE_MARGIN = 1.3  # the estimate of tokens may be that much too low


class HttpProvider:
    """Implements `Provider` (see base.py). The key is in no attribute that a repr shows."""

    def __init__(
        self,
        name: str,
        spec: ProviderSpec,
        dialect: Dialect,
        transport: Transport,
        *,
        base_url: str,
        api_key: str | None,
        models: Mapping[str, ModelSpec],
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """`models` maps the provider's own model names to what the catalogue says of them."""
        self.name = name
        self._spec = spec
        self._dialect = dialect
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._models = models
        self._tracing = tracing
        self._headroom: dict[str, Headroom] = {}

    def __repr__(self) -> str:
        return f"HttpProvider({self.name!r})"

    def generate(
        self,
        prompt: str | Sequence[Message],
        model: str,
        *,
        params: GenerationParams,
        limits: CallLimits,
        on_delta: Callable[[str], None] | None = None,
    ) -> Completion:
        """See `Provider.generate`. `model` is the provider's own name of the model."""
        with self._tracing.span(
            f"chat {model}",
            "client",
            asked(self.name, self._spec.kind, self._base_url, model, params, on_delta is not None),
        ) as span:
            try:
                completion = self._generate(prompt, model, params, limits, on_delta)
            except ProviderError as error:
                error.provider, error.model = self.name, model
                span.fail(error.type)
                raise
            span.add(answered(completion))
            return completion

    def _generate(
        self,
        prompt: str | Sequence[Message],
        model: str,
        params: GenerationParams,
        limits: CallLimits,
        on_delta: Callable[[str], None] | None,
    ) -> Completion:
        started = time.monotonic()
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        call = Call(messages, model, params, on_delta is not None, self._models.get(model))
        request = self._dialect.request(call)
        try:
            body = orjson.dumps(request.body)
        except TypeError as error:
            raise BadRequest("the request cannot be written as JSON in UTF-8") from error
        headers = {
            "Content-Type": "application/json",
            **request.headers,
            **self._tracing.outgoing_headers(),
            **self._auth(),
        }
        first: float | None = None
        with self._transport.send(
            "POST", self._base_url + request.path, headers, body, limits
        ) as reply:
            if not 200 <= reply.status < 300:
                raise error_from(reply.status, reply.headers, reply.error_body(), self._api_key)
            self._headroom[model] = headroom(reply.headers)
            if on_delta is None:
                answer = self._dialect.answer(reply.body(), model)
            elif "json" in reply.headers.get("content-type", ""):
                # Some compatible servers ignore `stream` and answer at once.
                answer = self._dialect.answer(reply.body(), model)
                first = time.monotonic() - started
                if answer.text:
                    on_delta(answer.text)
            else:
                answer, first_at = self._stream(reply, model, on_delta)
                first = None if first_at is None else first_at - started
        _refuse_empty(answer)
        return Completion(
            text=answer.text,
            provider=self.name,
            model=answer.model,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            latency=time.monotonic() - started,
            first_token_seconds=first,
            cost=cost(
                answer.usage, model, self._spec.pricing, call.spec.price if call.spec else None
            ),
        )

    def _stream(
        self, reply: Reply, model: str, on_delta: Callable[[str], None]
    ) -> tuple[Answer, float | None]:
        reader = self._dialect.reader(model)
        first: float | None = None
        for data in event_data(reply.chunks()):
            text = reader.feed(data)
            if text:
                if first is None:
                    first = time.monotonic()
                on_delta(text)
        if not reader.done:
            raise ProviderUnreachable("the stream was cut before its end")
        return reader.answer(), first

    def headroom(self, model: str) -> Headroom | None:
        """What the provider last said that it still allows for `model`."""
        return self._headroom.get(model)

    def get_provider_status(self) -> ProviderStatus:
        """Ask for the list of models, which costs nothing. Waits at most STATUS_SECONDS."""
        configured = self._spec.key_env is None or self._api_key is not None
        if not configured:
            return ProviderStatus(self.name, False, None, f"{self._spec.key_env} is not set")
        limits = CallLimits(time.monotonic() + STATUS_SECONDS, first_byte_seconds=STATUS_SECONDS)
        headers = {**self._auth(), **self._dialect.request(_PROBE).headers}
        try:
            with self._transport.send(
                "GET", self._base_url + self._dialect.status_path, headers, None, limits
            ) as reply:
                if reply.status >= 400:
                    error = error_from(
                        reply.status, reply.headers, reply.error_body(), self._api_key
                    )
                    return ProviderStatus(self.name, True, False, str(error))
        except ProviderError as error:
            return ProviderStatus(self.name, True, False, str(error))
        return ProviderStatus(self.name, True, True)

    def estimate_cost(
        self, prompt: str | Sequence[Message], max_tokens: int, model: str | None = None
    ) -> float:
        """See `Provider.estimate_cost`. Without a model: the dearest one of this provider."""
        tokens = math.ceil(estimate_tokens(prompt) * ESTIMATE_MARGIN)
        usage = Usage(input_tokens=tokens, output_tokens=max_tokens)
        names = [model] if model is not None else list(self._models)
        return max(
            (
                cost(usage, name, self._spec.pricing, spec.price if spec else None)
                for name in names
                for spec in [self._models.get(name)]
            ),
            default=0.0,
        )

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def _auth(self) -> dict[str, str]:
        return {} if self._api_key is None else self._dialect.auth(self._api_key)


_PROBE = Call([Message(role="user", content="")], "", GenerationParams(), False, None)


def _refuse_empty(answer: Answer) -> None:
    """An empty answer is never a success; say what it was."""
    if answer.text:
        return
    if answer.finish_reason == "content_filter":
        raise ContentFiltered()
    if answer.finish_reason == "length":
        raise BadRequest("max_tokens was used up before the first word of the answer; raise it")
    raise EmptyAnswer
