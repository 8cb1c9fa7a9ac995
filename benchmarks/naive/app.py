"""The reference: what a team writes in an afternoon from the documentation of its parts.

Flask checks a JWT, flask-limiter counts in Redis, pydantic validates, Celery's `apply_async` puts
the prompt into a queue, and the task's id is the answer. Nothing is durable beside the message:
no record, no idempotency, no lease, no fairness, no admission.

Served as ours is: granian, WSGI, one process.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery
from flask import Flask, jsonify, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    get_jwt_identity,
    jwt_required,
    verify_jwt_in_request,
)
from flask_limiter import Limiter
from pydantic import BaseModel, Field, ValidationError

REDIS_URL = os.environ["REDIS_URL"]

queue = Celery("naive", broker=REDIS_URL, backend=REDIS_URL)
queue.conf.task_ignore_result = False


class InferenceRequest(BaseModel):
    """A submission."""

    prompt: str = Field(min_length=1, max_length=100_000)
    model_preference: str = "auto"
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    priority: str = "normal"


@queue.task(name="naive.infer")
def infer(payload: dict[str, Any]) -> str:
    """Would ask the model."""
    return payload["prompt"]


def _user() -> str:
    verify_jwt_in_request()
    return str(get_jwt_identity())


app = Flask("naive")
app.config.update(
    JWT_SECRET_KEY=os.environ["JWT_SECRET_KEY"], JWT_ACCESS_TOKEN_EXPIRES=timedelta(hours=1)
)
JWTManager(app)
limiter = Limiter(_user, app=app, storage_uri=REDIS_URL, headers_enabled=True)


@app.post("/v1/inference")
@limiter.limit(f"{os.environ['RATE_LIMIT_REQUESTS']} per minute")
@jwt_required()
def submit() -> tuple[Any, int]:
    """Queue a prompt."""
    try:
        body = InferenceRequest.model_validate_json(request.get_data())
    except ValidationError as error:
        return jsonify(error.errors(include_url=False)), 422
    sent = infer.apply_async(
        kwargs={"payload": {**body.model_dump(), "user": get_jwt_identity()}},
        queue=f"inference.{body.priority}",
    )
    return jsonify(id=sent.id, state="queued"), 202


@app.get("/health")
def health() -> str:
    """Up."""
    return "ok"


@app.get("/token")
def token() -> str:
    """A token for the load generator."""
    return create_access_token("ann")
