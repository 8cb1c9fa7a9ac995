"""What can be asked for."""

from __future__ import annotations

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import ModelPath, openai_answers
from app.openai.models import model_list, model_object
from app.problems import Problem
from app.services import services

models_api = APIBlueprint(
    "models",
    __name__,
    url_prefix="/v1/models",
    abp_tags=[Tag(name="Models", description="What can be asked for.")],
    abp_security=[{"token": []}],
)


@models_api.get("", summary="List models and routes", responses=openai_answers(200, 401, 429))
def list_models() -> Response:
    """Models with their limits and capabilities, routes, and `auto`, in OpenAI's list shape."""
    return _json(model_list(services().catalogue))


@models_api.get(
    "/<path:model>", summary="Look at a model", responses=openai_answers(200, 401, 404, 429)
)
def get_model(path: ModelPath) -> Response:
    """One model, by its id or an alias, or one route."""
    try:
        return _json(model_object(services().catalogue, path.model))
    except KeyError:
        raise Problem(404, "unknown-model", "There is no model or route of that name.") from None


def _json(content: object) -> Response:
    return current_app.response_class(orjson.dumps(content), mimetype="application/json")
