"""Batch results in OpenAI's form: one line of an output or an error file."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tasks.batch_results import LineResult

_CODES = {"deadline": "batch_expired", "cancelled": "batch_cancelled"}


def output_line(result: LineResult, endpoint: str) -> tuple[dict[str, Any], bool]:
    """The line, and whether it belongs into the output file (else: the error file)."""
    line: dict[str, Any] = {
        "id": f"batch_req_{result.job_id.removeprefix('job_')}",
        "custom_id": result.line.custom_id,
        "response": None,
        "error": None,
    }
    if result.response is not None:
        body = _response_body if endpoint == "/v1/responses" else _chat_body
        line["response"] = {
            "status_code": 200,
            "request_id": result.response["request_id"],
            "body": body(result.job_id, result.response),
        }
        return line, True
    error = result.error or {"type": result.state.value, "message": ""}
    code = _CODES.get(error["type"], error["type"])
    line["error"] = {"code": code, "message": error["message"]}
    return line, False


def _created(response: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(response["created_at"]).timestamp())


def _chat_body(job_id: str, response: dict[str, Any]) -> dict[str, Any]:
    usage = response["usage"]
    reason = response["finish_reason"]
    return {
        "id": f"chatcmpl-{job_id.removeprefix('job_')}",
        "object": "chat.completion",
        "created": _created(response),
        "model": response["model"],
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": response["response"],
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop" if reason == "other" else reason,
            }
        ],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
            "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        },
    }


def _response_body(job_id: str, response: dict[str, Any]) -> dict[str, Any]:
    usage = response["usage"]
    cut = response["finish_reason"] in ("length", "content_filter")
    reason = "max_output_tokens" if response["finish_reason"] == "length" else "content_filter"
    name = job_id.removeprefix("job_")
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": _created(response),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": reason} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": response["metadata"],
        "model": response["model"],
        "output": [
            {
                "id": f"msg_{name}",
                "type": "message",
                "role": "assistant",
                "status": "incomplete" if cut else "completed",
                "content": [
                    {"type": "output_text", "text": response["response"], "annotations": []}
                ],
            }
        ],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "usage": {
            "input_tokens": usage["input_tokens"],
            "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
            "output_tokens": usage["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
        },
    }
