"""The Flask application."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import flask
from flask import g, redirect, request
from flask_openapi3.models.info import Info
from flask_openapi3.models.schema import Schema
from flask_openapi3.models.security_scheme import SecurityScheme
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin as SwaggerUI
from pydantic import ValidationError
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.wrappers import Response

from app.answers import add_common_answers
from app.identity import authenticate, authorize, init_identity
from app.limits import init_limits
from app.observing import init_observing
from app.problems import Problem, ProblemDocument, register_error_handlers, validation_problem
from app.routes.admin import admin_api
from app.routes.allowances import allowances_api
from app.routes.auth import auth_api
from app.routes.batch import batch_api
from app.routes.cache import cache_api
from app.routes.console import console_api
from app.routes.files import files_api
from app.routes.health import health_api, release
from app.routes.inference import jobs_api
from app.routes.metrics import metrics_api
from app.routes.openai_batches import batches_api
from app.routes.openai_chat import chat_api
from app.routes.openai_models import models_api
from app.routes.openai_responses import responses_api
from app.routes.openai_webhooks import webhook_endpoints_api
from app.routes.scaler import scaler_api
from app.routes.state import state_api
from app.routes.streams import streams_api
from app.routes.usage import usage_api
from app.routes.webhooks import webhooks_api
from app.services import make_services
from app.tracing import init_tracing
from config.logs import log_context
from config.settings import Settings

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
RECORDING = {  # endpoints that record one job, whose script counts them
    "jobs.submit_inference",
    "chat.create_chat_completion",
    "responses.create_response",
}
SUBMITTING = RECORDING | {  # endpoints that bring work
    "batch.submit_batch",
    "batches.create_batch",
    "auth.issue_token",  # each a costly hash
}
BUFFERED = 65_536  # bytes of a body that the server has read by the time we answer
PUBLIC = ("/v1/health", "/v1/metrics", "/v1/auth/", "/docs", "/openapi.json")


PAGE_HEADERS = {
    # Swagger UI starts itself with an inline script.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class Request(flask.Request):
    """A request whose JSON body goes to pydantic as it came: parsed once, and strictly."""

    def get_json(self, *_args: Any, **_kwargs: Any) -> Any:
        """The body as text. Raises 400 for bad encodings, 415 for another media type."""
        if not self.is_json:
            raise UnsupportedMediaType("Send the body as `Content-Type: application/json`.")
        try:
            return self.get_data().decode()
        except UnicodeDecodeError:
            raise Problem(400, "malformed-json", "The body is not valid UTF-8.") from None


class API(OpenAPI):
    """The application, with our way of reading requests."""

    request_class = Request

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself: none of ours is asynchronous, and Flask asks a dozen a request."""
        return func

    def generate_spec_json(self) -> None:
        """The OpenAPI document; every operation says all that it may answer."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        usage = self.spec_json["paths"]["/v1/usage"]["get"]["responses"]["200"]
        usage["content"]["text/csv"] = {"schema": {"type": "string"}}
        add_common_answers(self.spec_json["paths"])


def create_app(settings: Settings) -> API:
    """The API. Connects to nothing yet."""
    app = API(
        "app",
        info=Info(
            title="InferenceFlow",
            version=release(),
            description="Submit prompts, get a job at once, collect the answer as you like.",
        ),
        security_schemes={
            "token": SecurityScheme(type="http", scheme="bearer", bearerFormat="JWT")
        },
        validation_error_model=ProblemDocument,
        validation_error_callback=_invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    current = make_services(settings)
    app.extensions["inferenceflow"] = current

    init_observing(app, current)
    app.before_request(_begin)
    init_tracing(app, current)
    init_identity(app, settings)
    app.before_request(_authenticate)
    app.after_request(_finish)
    app.teardown_request(_leave)
    register_error_handlers(app)

    app.register_api(jobs_api)
    app.register_api(batch_api)
    app.register_api(files_api)
    app.register_api(batches_api)
    app.register_api(webhooks_api)
    app.register_api(webhook_endpoints_api)
    app.register_api(streams_api)
    app.register_api(chat_api)
    app.register_api(responses_api)
    app.register_api(models_api)
    app.register_api(health_api)
    app.register_api(metrics_api)
    app.register_api(state_api)
    app.register_api(scaler_api)
    app.register_blueprint(console_api)
    app.register_api(auth_api)
    app.register_api(admin_api)
    app.register_api(allowances_api)
    app.register_api(usage_api)
    app.register_api(cache_api)
    init_limits(app, settings, current.job_redis, submitting=SUBMITTING, recording=RECORDING)
    app.components_schemas["Problem"] = Schema(**ProblemDocument.model_json_schema())
    app.register_blueprint(SwaggerUI.register(doc_url="/openapi.json"), url_prefix="/docs")
    app.add_url_rule("/openapi.json", "openapi", lambda: app.api_doc)
    for path in ("/", "/docs", "/docs/"):
        app.add_url_rule(path, f"home {path}", lambda: redirect("/docs/swagger"))
    return app


def _invalid(error: ValidationError) -> Response:
    return validation_problem(error).response()


def _begin() -> None:
    """Name the request, for every log line and answer."""
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    g.stack = ExitStack()
    g.stack.enter_context(log_context(request_id=g.request_id))


def _authenticate() -> None:
    if not request.path.startswith("/v1/") or request.path.startswith(PUBLIC):
        return
    g.caller = authenticate()
    authorize(g.caller, request.method, request.path)
    g.stack.enter_context(log_context(tenant=g.caller.tenant))


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
    if response.status_code >= 400 and _may_be_unread():
        # The server closes such a connection; a client that is not told may send on it again.
        response.headers["Connection"] = "close"
    return response


def _may_be_unread() -> bool:
    """Whether the request has a body that an early refusal can have left on the wire."""
    length = request.content_length
    if length is None:
        return "Transfer-Encoding" in request.headers
    return length > BUFFERED


def _leave(_error: BaseException | None) -> None:
    stack = g.pop("stack", None)
    if stack is not None:
        stack.close()
