"""Answers to the API's questions (tasks/control.py)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from tasks.inference import InferenceRequest
from workers.context import WorkerContext, context
from workers.providers.errors import ProviderError

logger = logging.getLogger(__name__)


def answer(question_id: str) -> None:
    """Answer one question; one that nobody waits for any more is left alone."""
    current = context()
    question = current.control.question(question_id)
    if question is None:
        return
    kind = question.pop("kind")
    try:
        reply = KINDS[kind](current, **question)
    except ProviderError as error:  # no route: what the asker wants to know
        reply = {"failed": str(error)}
    except Exception:  # the border of the task: the asker must hear of it
        logger.exception("question failed", extra={"action": "control_failed", "kind": kind})
        reply = {"failed": "the worker could not do it; see its log"}
    current.control.reply(question_id, reply)


def _invalidate(
    current: WorkerContext,
    tenant: str | None,
    pattern: str | None,
    model: str | None,
    tag: str | None,
    older_than: float | None,
) -> dict[str, Any]:
    pool = None if tenant is None else current.cache.rules.pool(tenant)
    removed = current.cache.invalidate_cache(
        pattern, pool=pool, model=model, tag=tag, older_than=older_than
    )
    return {"removed": removed if removed >= 0 else None}


def _wrong_answer(
    current: WorkerContext, tenant: str, request: dict[str, Any], entry: str
) -> dict[str, Any]:
    known = current.cache.answer_was_wrong(
        InferenceRequest.model_validate(request), entry, pool=current.cache.rules.pool(tenant)
    )
    return {"removed": known}


def _explain_route(current: WorkerContext, request: dict[str, Any]) -> dict[str, Any]:
    asked = InferenceRequest.model_validate(request)
    prompt = asked.conversation()[-1].text
    decision = current.router.explain(prompt) if asked.model_preference == "auto" else None
    plan = current.router.route_request(asked)
    return {
        "decision": dataclasses.asdict(decision) if decision else None,
        "candidates": [
            {"provider": target.provider, "model": target.model} for target in plan.targets
        ],
        "passed_over": [attempt.model_dump() for attempt in plan.passed_over],
        "input_tokens": plan.input_tokens,
        "notice": plan.notice,
    }


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "cache.invalidate": _invalidate,
    "cache.wrong_answer": _wrong_answer,
    "route.explain": _explain_route,
}
