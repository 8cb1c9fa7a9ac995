"""Metrics for Prometheus."""

from __future__ import annotations

import hmac
from typing import cast

from flask import Response, current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from prometheus_client.exposition import choose_encoder

from app.documents import problems
from app.observing import HttpMetrics
from app.problems import Problem
from app.services import services

metrics_api = APIBlueprint(
    "metrics",
    __name__,
    url_prefix="/v1/metrics",
    abp_tags=[Tag(name="Health", description="Is it up, and can it take work?")],
)


@metrics_api.get(
    "",
    summary="Metrics for Prometheus",
    responses={"200": {"content": {"text/plain": {}}}, **problems(401)},
)
def metrics() -> Response:
    """Of this API and of the queues. With METRICS_TOKEN set, send it as a bearer token."""
    token = services().settings.metrics_token
    if token is not None:
        expected = f"Bearer {token.get_secret_value()}".encode()
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise Problem(
                401,
                "token-missing",
                "Send the metrics token in the header `Authorization: Bearer ...`.",
                headers={"WWW-Authenticate": "Bearer"},
            )
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    collected = cast(HttpMetrics, current_app.extensions["inferenceflow.metrics"])
    return current_app.response_class(encode(collected.registry), content_type=content_type)
