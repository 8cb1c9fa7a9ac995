"""The reference: what a team writes in an afternoon from the documentation of its parts.

Flask checks a JWT, flask-limiter counts in Redis, pydantic validates, Celery's `apply_async` puts
the prompt into a queue, and the task's id is the answer. Nothing is durable beside the message:
no record, no idempotency, no lease, no fairness, no admission.

Two more routes show what these parts cost alone, and so what no product made of them can beat: a
chat completion through the queue, and a stored answer read from Redis.

Served as ours is: granian, WSGI, one process.
"""

from __future__ import annotations

import os
import uuid
from datetime import timedelta
from typing import Any

import redis
import requests
from celery import Celery
from flask import Flask, Response, jsonify, request
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
ANSWER_SECONDS = 60
STORED = "stored"  # the key of the answer that /v1/stored gives

queue = Celery("naive", broker=REDIS_URL, backend=REDIS_URL)
queue.conf.task_ignore_result = False
store = redis.Redis.from_url(REDIS_URL)
http = requests.Session()
http.trust_env = False
http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=128))


class InferenceRequest(BaseModel):
    """A submission."""

    prompt: str = Field(min_length=1, max_length=100_000)
    model_preference: str = "auto"
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    priority: str = "normal"


class ChatRequest(BaseModel):
    """A chat completion."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)


@queue.task(name="naive.infer")
def infer(payload: dict[str, Any]) -> str:
    """Would ask the model."""
    return payload["prompt"]


@queue.task(name="naive.complete", ignore_result=True)
def complete(job: str, payload: dict[str, Any]) -> None:
    """Ask the model, and hand the answer to whoever waits for it."""
    url = f"{os.environ['UPSTREAM_URL']}/chat/completions"
    answer = http.post(url, json=payload, timeout=ANSWER_SECONDS)
    store.rpush(f"answer:{job}", answer.content)


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


@app.post("/v1/chat/completions")
@limiter.limit(f"{os.environ['RATE_LIMIT_REQUESTS']} per minute")
@jwt_required()
def chat() -> tuple[Any, int]:
    """Queue a chat completion and wait for it."""
    try:
        body = ChatRequest.model_validate_json(request.get_data())
    except ValidationError as error:
        return jsonify(error.errors(include_url=False)), 422
    job = uuid.uuid4().hex
    complete.apply_async(args=(job, body.model_dump()), queue="inference.chat")
    found: Any = store.blpop([f"answer:{job}"], timeout=ANSWER_SECONDS)
    if found is None:
        return jsonify(error="no answer in time"), 504
    return Response(found[1], mimetype="application/json"), 200


@app.post("/v1/stored")
def stored() -> Response:
    """One stored answer, to anybody: a bare Flask route with one Redis command."""
    found: Any = store.get(STORED)
    return Response(found, mimetype="application/json")


@app.get("/health")
def health() -> str:
    """Up."""
    return "ok"


@app.get("/token")
def token() -> str:
    """A token for the load generator."""
    return create_access_token("ann")
