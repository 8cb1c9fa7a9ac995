"""The span of an HTTP request, and what of it goes into the records of its jobs.

A caller's own `traceparent` is gone on from. Probes and scrapes are no traces.
"""

from __future__ import annotations

from flask import Flask, g, request
from werkzeug.wrappers import Response

from app.services import Services
from config.logs import log_context

UNTRACED = ("/v1/health", "/v1/metrics")


def init_tracing(app: Flask, services: Services) -> None:
    """Trace the requests of `app`, if TRACING is on. To be called after `g.stack` is made."""
    tracing = services.tracing
    if not tracing.on:
        return

    def begin() -> None:
        if request.path.startswith(UNTRACED):
            return
        route = request.url_rule.rule if request.url_rule is not None else None
        span = g.stack.enter_context(
            tracing.span(
                f"{request.method} {route}" if route else request.method,
                "server",
                {
                    "http.request.method": request.method,
                    "http.route": route,
                    "url.scheme": request.scheme,
                    "url.path": request.path,  # without the query
                    "inferenceflow.request_id": g.request_id,
                },
                parent={
                    name: request.headers[name]
                    for name in ("traceparent", "tracestate")
                    if name in request.headers
                },
            )
        )
        g.span, g.traceparent = span, span.traceparent
        g.stack.enter_context(log_context(**span.log_fields()))

    def finish(response: Response) -> Response:
        span = g.get("span")
        if span is not None:
            span.add({"http.response.status_code": response.status_code})
            if response.status_code >= 500:
                span.fail(str(response.status_code))
        return response

    app.before_request(begin)
    app.after_request(finish)
