"""Webhooks: endpoints, secrets, the log of deliveries."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.documents import Parameters, problems
from app.identity import caller
from app.problems import Problem
from app.services import Services, services
from app.submission import check_webhook_url
from tasks.deliveries import Delivery
from tasks.webhooks import Endpoint, UnknownEndpointError

webhooks_api = APIBlueprint(
    "webhooks",
    __name__,
    url_prefix="/v1/webhooks",
    abp_tags=[Tag(name="Webhooks", description="Be told when something has ended.")],
    abp_security=[{"token": []}],
)

Event = Literal[
    "*", "job.succeeded", "job.failed", "job.cancelled", "job.expired", "batch.completed",
    "batch.failed", "batch.expired", "batch.cancelled", "webhook.disabled", "budget.threshold",
    "budget.exhausted",
]  # fmt: skip
URL = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]
Name = Annotated[str, StringConstraints(max_length=200)]


class EndpointPath(BaseModel):
    """Names an endpoint."""

    endpoint_id: str = Field(max_length=100)


class DeliveryPath(EndpointPath):
    """Names a delivery."""

    delivery_id: str = Field(max_length=100)


class DeliveryQuery(Parameters):
    """A page of deliveries."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(
        default=None, max_length=100, description="`next_cursor` of the page before."
    )


class NewEndpoint(BaseModel):
    """An endpoint to be registered."""

    model_config = ConfigDict(extra="forbid")

    url: URL = Field(description="https, with a public address.")
    events: Annotated[list[Event], Field(min_length=1, max_length=50)] = Field(
        default=["*"], description="What to send; `*`: everything."
    )
    name: Name = ""


class EndpointChanges(BaseModel):
    """What to change of an endpoint."""

    model_config = ConfigDict(extra="forbid")

    url: URL | None = None
    events: Annotated[list[Event], Field(min_length=1, max_length=50)] | None = None
    name: Name | None = None
    enabled: bool | None = Field(default=None, description="True also forgets past failures.")


class EndpointView(BaseModel):
    """An endpoint."""

    model_config = ConfigDict(title="WebhookEndpoint")

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    name: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    failing_since: str | None
    secret_hint: str
    created_at: str
    updated_at: str


class EndpointWithSecret(EndpointView):
    """An endpoint with its secret, which is shown this once."""

    model_config = ConfigDict(title="WebhookEndpointWithSecret")

    secret: str


class EndpointList(BaseModel):
    """All endpoints."""

    data: list[EndpointView]


class AttemptView(BaseModel):
    """One attempt to deliver."""

    number: int
    at: str
    status: int | None
    error: str | None
    latency_ms: int
    response: str


class DeliveryView(BaseModel):
    """A message for an endpoint."""

    model_config = ConfigDict(title="WebhookDelivery")

    id: str = Field(description="The header `webhook-id`, the same in every attempt.")
    event: str
    state: Literal["pending", "retrying", "delivered", "failed", "discarded"]
    created_at: str
    next_attempt_at: str | None
    attempts: list[AttemptView]
    payload: dict[str, Any]


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    data: list[DeliveryView]
    next_cursor: str | None


class Secret(BaseModel):
    """A signing secret."""

    secret: str


TEST_WAIT_SECONDS = 20.0


@webhooks_api.post(
    "",
    summary="Register an endpoint",
    responses={"201": EndpointWithSecret, **problems(400, 401, 409, 422)},
)
def create_webhook(body: NewEndpoint) -> Response:
    """The answer has the signing secret, which is not shown again."""
    current = services()
    check_webhook_url(current, body.url, resolve=True, field="url")
    endpoint, secret = current.webhooks.create(
        caller().tenant, body.url, events=body.events, name=body.name
    )
    response = _json({**_view(endpoint), "secret": secret}, 201)
    response.headers["Location"] = f"/v1/webhooks/{endpoint.id}"
    return response


@webhooks_api.get("", summary="List endpoints", responses={"200": EndpointList, **problems(401)})
def list_webhooks() -> Response:
    """All of the tenant's."""
    found = services().webhooks.of_tenant(caller().tenant)
    return _json({"data": [_view(one) for one in found if one.shape == "native"]}, 200)


@webhooks_api.get(
    "/default-secret",
    summary="The secret of `webhook_url`",
    responses={"200": Secret, **problems(401)},
)
def get_default_secret() -> Response:
    """Signs what is sent to the `webhook_url` of a job or batch."""
    return _json({"secret": services().webhooks.default_secret(caller().tenant)}, 200)


@webhooks_api.get(
    "/<endpoint_id>",
    summary="Look at an endpoint",
    responses={"200": EndpointView, **problems(401, 404)},
)
def get_webhook(path: EndpointPath) -> Response:
    """With why it is disabled, if it is."""
    return _json(_view(_native(services(), path.endpoint_id)), 200)


@webhooks_api.patch(
    "/<endpoint_id>",
    summary="Change an endpoint",
    responses={"200": EndpointView, **problems(400, 401, 404, 422)},
)
def update_webhook(path: EndpointPath, body: EndpointChanges) -> Response:
    """What is not given stays."""
    current = services()
    _native(current, path.endpoint_id)
    check_webhook_url(current, body.url, resolve=True, field="url")
    endpoint = current.webhooks.update(
        path.endpoint_id,
        caller().tenant,
        url=body.url,
        events=body.events,
        name=body.name,
        enabled=body.enabled,
    )
    return _json(_view(endpoint), 200)


@webhooks_api.delete(
    "/<endpoint_id>",
    summary="Delete an endpoint",
    responses={"204": None, **problems(401, 404)},
)
def delete_webhook(path: EndpointPath) -> Response:
    """What it was still to get is given up."""
    current = services()
    _native(current, path.endpoint_id)
    current.webhooks.delete(path.endpoint_id, caller().tenant)
    return current_app.response_class(status=204)


@webhooks_api.post(
    "/<endpoint_id>/rotate",
    summary="Change the secret",
    responses={"200": EndpointWithSecret, **problems(401, 404)},
)
def rotate_secret(path: EndpointPath) -> Response:
    """For 24 hours every message has two signatures, by the old secret and by the new one."""
    current, tenant = services(), caller().tenant
    _native(current, path.endpoint_id)
    secret = current.webhooks.rotate(path.endpoint_id, tenant)
    return _json({**_view(current.webhooks.get(path.endpoint_id, tenant)), "secret": secret}, 200)


@webhooks_api.post(
    "/<endpoint_id>/test",
    summary="Send a test event",
    responses={"200": AttemptView, **problems(401, 404, 409, 504)},
)
def test_webhook(path: EndpointPath) -> Response:
    """Sends `webhook.test` once and answers with what came of it."""
    current = services()
    endpoint = _native(current, path.endpoint_id)
    return _json(send_test(current, endpoint, "webhook.test"), 200)


@webhooks_api.get(
    "/<endpoint_id>/deliveries",
    summary="The log of deliveries",
    responses={"200": DeliveryPage, **problems(401, 404, 422)},
)
def list_deliveries(path: EndpointPath, query: DeliveryQuery) -> Response:
    """What was sent and what came back, newest first, for seven days."""
    current = services()
    _native(current, path.endpoint_id)
    found = current.deliveries.page(path.endpoint_id, after=query.cursor, limit=query.limit)
    more = len(found) == query.limit
    return _json(
        {
            "data": [_delivery_view(delivery, log) for delivery, log in found],
            "next_cursor": found[-1][0].id if more else None,
        },
        200,
    )


@webhooks_api.post(
    "/<endpoint_id>/deliveries/<delivery_id>/redeliver",
    summary="Send again",
    responses={"202": None, **problems(401, 404, 409)},
)
def redeliver(path: DeliveryPath) -> Response:
    """With the same `webhook-id`, whatever came of it before."""
    services().deliveries.redeliver(
        path.delivery_id, endpoint=path.endpoint_id, tenant=caller().tenant
    )
    return _json({"id": path.delivery_id, "state": "pending"}, 202)


def send_test(current: Services, endpoint: Endpoint, event: str) -> dict[str, Any]:
    """Send a test event and wait for what comes of it. Raises Problem 409 or 504."""
    if not endpoint.enabled:
        raise Problem(409, "webhook-disabled", "Enable the endpoint first.")
    delivery = current.webhooks.test(endpoint, event)
    end, pause = time.monotonic() + TEST_WAIT_SECONDS, threading.Event()
    while (attempt := current.deliveries.first_attempt(delivery)) is None:
        if time.monotonic() > end:
            raise Problem(504, "timeout", "The test was not sent in time; see the deliveries.")
        pause.wait(0.2)
    return attempt


def _native(current: Services, endpoint_id: str) -> Endpoint:
    endpoint = current.webhooks.get(endpoint_id, caller().tenant)
    if endpoint.shape != "native":
        raise UnknownEndpointError(UnknownEndpointError.__doc__)
    return endpoint


def _view(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "object": "webhook",
        "url": endpoint.url,
        "name": endpoint.name,
        "events": list(endpoint.events),
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason or None,
        "failing_since": _time(endpoint.failing_since),
        "secret_hint": endpoint.secret_hint,
        "created_at": _time(endpoint.created_at),
        "updated_at": _time(endpoint.updated_at),
    }


def _delivery_view(delivery: Delivery, log: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "event": delivery.type,
        "state": delivery.state,
        "created_at": _time(delivery.created_at),
        "next_attempt_at": _time(delivery.due_at),
        "attempts": log,
        "payload": orjson.loads(delivery.payload),
    }


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _json(content: dict[str, Any], status: int) -> Response:
    return current_app.response_class(
        orjson.dumps(content), status=status, mimetype="application/json"
    )
