"""Webhook endpoints, in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.documents import Parameters, openai_answers
from app.identity import caller
from app.openai_jobs import json_answer
from app.problems import Problem
from app.routes.webhooks import URL, send_test
from app.services import Services, services
from app.submission import check_webhook_url
from tasks.webhooks import OPENAI_EVENTS, Endpoint, UnknownEndpointError

webhook_endpoints_api = APIBlueprint(
    "webhook_endpoints",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="Webhooks, as OpenAI's", description="With OpenAI's own event types.")],
    abp_security=[{"token": []}],
)

EventType = Literal[
    "response.completed", "response.failed", "response.cancelled", "response.incomplete",
    "batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
]  # fmt: skip
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=50)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class WebhookEndpointPath(BaseModel):
    """Names an endpoint."""

    webhook_endpoint_id: str = Field(max_length=100)


class WebhookEndpointQuery(Parameters):
    """A page of endpoints."""

    limit: int = Field(default=20, ge=1, le=100)
    after: str | None = Field(default=None, max_length=100, description="The last id seen.")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WebhookEndpointRequest(_Body):
    """An endpoint to be registered."""

    url: URL
    name: Name
    event_types: EventTypes


class WebhookEndpointChanges(_Body):
    """What to change."""

    url: URL | None = None
    name: Name | None = None
    event_types: EventTypes | None = None


class RotateRequest(_Body):
    """How to rotate."""

    keep_old_secret_active_for_24_hours: bool = False


class WebhookTestRequest(_Body):
    """What to send."""

    event_type: EventType


@webhook_endpoints_api.get(
    "/webhook_event_types", summary="List event types", responses=openai_answers(200, 401)
)
def list_event_types() -> Response:
    """All that can be asked for."""
    return json_answer({"object": "list", "data": list(OPENAI_EVENTS)})


@webhook_endpoints_api.post(
    "/webhook_endpoints", summary="Register", responses=openai_answers(200, 400, 401, 409)
)
def create_webhook_endpoint(body: WebhookEndpointRequest) -> Response:
    """The answer has the signing secret, which is not shown again."""
    current = services()
    check_webhook_url(current, body.url, resolve=True, field="url")
    endpoint, secret = current.webhooks.create(
        caller().tenant, body.url, events=body.event_types, name=body.name, shape="openai"
    )
    return json_answer({**_object(endpoint), "signing_secret": secret})


@webhook_endpoints_api.get("/webhook_endpoints", summary="List", responses=openai_answers(200, 404))
def list_webhook_endpoints(query: WebhookEndpointQuery) -> Response:
    """The newest first."""
    found = [one for one in services().webhooks.of_tenant(caller().tenant) if _ours(one)]
    if query.after is not None:
        ids = [one.id for one in found]
        if query.after not in ids:
            raise Problem(404, "unknown-webhook", "No such webhook endpoint: after.")
        found = found[ids.index(query.after) + 1 :]
    page = [_object(one) for one in found[: query.limit]]
    return json_answer(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > query.limit,
        }
    )


@webhook_endpoints_api.get(
    "/webhook_endpoints/<webhook_endpoint_id>",
    summary="Look at one",
    responses=openai_answers(200, 401, 404),
)
def get_webhook_endpoint(path: WebhookEndpointPath) -> Response:
    """Without its secret."""
    return json_answer(_object(_find(services(), path.webhook_endpoint_id)))


@webhook_endpoints_api.post(
    "/webhook_endpoints/<webhook_endpoint_id>",
    summary="Change",
    responses=openai_answers(200, 400, 401, 404),
)
def update_webhook_endpoint(path: WebhookEndpointPath, body: WebhookEndpointChanges) -> Response:
    """What is not given stays."""
    current = services()
    _find(current, path.webhook_endpoint_id)
    check_webhook_url(current, body.url, resolve=True, field="url")
    endpoint = current.webhooks.update(
        path.webhook_endpoint_id,
        caller().tenant,
        url=body.url,
        events=body.event_types,
        name=body.name,
    )
    return json_answer(_object(endpoint))


@webhook_endpoints_api.delete(
    "/webhook_endpoints/<webhook_endpoint_id>",
    summary="Delete",
    responses=openai_answers(200, 401, 404),
)
def delete_webhook_endpoint(path: WebhookEndpointPath) -> Response:
    """What it was still to get is given up."""
    current = services()
    endpoint = _find(current, path.webhook_endpoint_id)
    current.webhooks.delete(endpoint.id, endpoint.tenant)
    return json_answer({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


@webhook_endpoints_api.post(
    "/webhook_endpoints/<webhook_endpoint_id>/rotate_secret",
    summary="Change the secret",
    responses=openai_answers(200, 400, 401, 404),
)
def rotate_webhook_secret(path: WebhookEndpointPath, body: RotateRequest) -> Response:
    """The old one ends at once, or after 24 hours in which both sign."""
    current = services()
    endpoint = _find(current, path.webhook_endpoint_id)
    secret = current.webhooks.rotate(
        endpoint.id, endpoint.tenant, keep_old=body.keep_old_secret_active_for_24_hours
    )
    changed = current.webhooks.get(endpoint.id, endpoint.tenant)
    return json_answer({**_object(changed), "signing_secret": secret})


@webhook_endpoints_api.post(
    "/webhook_endpoints/<webhook_endpoint_id>/test",
    summary="Send a sample event",
    responses=openai_answers(200, 400, 401, 404, 502, 504),
)
def test_webhook_endpoint(path: WebhookEndpointPath, body: WebhookTestRequest) -> Response:
    """Answers with the status that the endpoint gave."""
    current = services()
    endpoint = _find(current, path.webhook_endpoint_id)
    attempt = send_test(current, endpoint, body.event_type)
    if attempt["status"] is None:
        raise Problem(502, "webhook-unreachable", f"No answer: {attempt['error']}.")
    return json_answer(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint.id,
            "event_type": body.event_type,
            "status_code": attempt["status"],
            "success": True,
        }
    )


def _ours(endpoint: Endpoint) -> bool:
    return endpoint.shape == "openai"


def _find(current: Services, endpoint_id: str) -> Endpoint:
    endpoint = current.webhooks.get(endpoint_id, caller().tenant)
    if not _ours(endpoint):
        raise UnknownEndpointError(UnknownEndpointError.__doc__)
    return endpoint


def _object(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.events),
        "signing_secret_hint": endpoint.secret_hint,
        "created_at": endpoint.created_at // 1000,
        "updated_at": endpoint.updated_at // 1000,
    }
