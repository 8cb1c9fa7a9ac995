"""Which fields of OpenAI's requests are honoured. What is not is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from app.problems import FieldFault, Problem, validation_problem
from tasks.inference import InferenceSubmission, Priority

ServiceTier = Literal["auto", "default", "flex", "priority"]

PRIORITIES: dict[ServiceTier | None, Priority] = {
    None: Priority.NORMAL,
    "auto": Priority.NORMAL,
    "default": Priority.NORMAL,
    "flex": Priority.LOW,
    "priority": Priority.HIGH,
}
TIERS: dict[Priority, ServiceTier] = {
    Priority.HIGH: "priority",
    Priority.NORMAL: "default",
    Priority.LOW: "flex",
}

# Values that ask for nothing, of fields that are not honoured; null asks for nothing anywhere.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False, []),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "truncation": ("disabled",),
    "include": ([],),
    "include_obfuscation": (False,),
    # in messages, as our own answers have them
    "annotations": ([],),
    "tool_calls": ([],),
}

KNOWN = frozenset(
    (
        *NEUTRAL, "audio", "conversation", "moderation", "prediction", "prompt",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning",
        "reasoning_effort", "refusal", "safety_identifier", "store", "tool_call_id", "user",
        "verbosity", "web_search_options", "max_tool_calls", "context_management", "name",
    )
)  # fmt: skip


def refuse(extra: Mapping[str, Any] | None, where: str = "", **neutral: object) -> None:
    """Raises Problem 400 for the first of the `extra` fields that asks for something.

    `where` is put before the field's name; `neutral` adds values that ask for nothing.
    """
    for name, value in (extra or {}).items():
        if value is None or value in NEUTRAL.get(name, ()) or value == neutral.get(name, ...):
            continue
        field = where + name
        if name in KNOWN:
            raise Problem(
                400,
                "unsupported-parameter",
                f"'{field}' with this value is not supported here. Leave it out.",
                errors=[FieldFault(field=field, message="not supported")],
            )
        raise Problem(
            400,
            "unknown-parameter",
            f"Unknown parameter: '{field}'.",
            errors=[FieldFault(field=field, message="unknown")],
        )


def make_submission(renamed: Mapping[str, str], **fields: Any) -> InferenceSubmission:
    """A submission of the `fields` that are not None.

    `renamed` maps our field names to those that the client used. Raises Problem 422 with them.
    """
    try:
        return InferenceSubmission(**{k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        problem = validation_problem(error)
        for fault in problem.errors:
            head, _, rest = fault.field.partition(".")
            fault.field = renamed.get(head, head) + (f".{rest}" if rest else "")
        first = problem.errors[0]
        raise Problem(
            problem.status, problem.kind, f"{first.field}: {first.message}", errors=problem.errors
        ) from None
