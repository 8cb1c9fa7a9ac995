"""The event log of a response, made from its job's stream: the same events whenever it is read.

response.created, response.queued or response.in_progress
once for the answer, and again whenever it begins anew:
  response.output_item.added, response.content_part.added
  response.output_text.delta ...
  response.output_text.done, response.content_part.done, response.output_item.done
response.completed, response.incomplete or response.failed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.openai.responses import (
    accepted_object,
    message_id,
    message_item,
    response_object,
    surface_of,
    text_part,
)
from tasks.jobs import Job


class EventLog:
    """Turns what happens to a job into numbered events. Feed it from the stream's beginning."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._next = 0
        self._number = -1  # of the message; it rises when the answer begins anew
        self._text: list[str] = []
        self._open = False
        self._background = bool((surface_of(job) or {}).get("background"))

    def begin(self) -> Iterator[dict[str, Any]]:
        """The job was accepted."""
        status = "queued" if self._background else "in_progress"
        response = accepted_object(self._job, status)
        yield self._event("response.created", response=response)
        yield self._event(f"response.{status}", response=response)

    def delta(self, text: str) -> Iterator[dict[str, Any]]:
        """More of the answer."""
        if not self._open:
            if self._number < 0 and self._background:
                response = accepted_object(self._job, "in_progress")
                yield self._event("response.in_progress", response=response)
            self._number += 1
            self._open = True
            item = {**message_item(self._job.id, "", "in_progress", number=self._number)}
            item["content"] = []
            yield self._event("response.output_item.added", output_index=self._number, item=item)
            yield self._in_message("response.content_part.added", part=text_part(""))
        self._text.append(text)
        yield self._in_message("response.output_text.delta", delta=text, logprobs=[])

    def restart(self) -> Iterator[dict[str, Any]]:
        """The answer begins anew: the message so far stays behind, incomplete."""
        if self._open:
            yield from self._close("incomplete")
        self._text.clear()

    def end(self, job: Job) -> Iterator[dict[str, Any]]:
        """The job, as it ended."""
        response = response_object(job, number=max(self._number, 0))
        answered = response["status"] in ("completed", "incomplete")
        if self._open:
            yield from self._close(
                "completed" if response["status"] == "completed" else "incomplete"
            )
        name = response["status"] if answered else "failed"
        yield self._event(f"response.{name}", response=response)

    def _close(self, status: str) -> Iterator[dict[str, Any]]:
        text = "".join(self._text)
        yield self._in_message("response.output_text.done", text=text, logprobs=[])
        yield self._in_message("response.content_part.done", part=text_part(text))
        item = message_item(self._job.id, text, status, number=self._number)
        yield self._event("response.output_item.done", output_index=self._number, item=item)
        self._open = False

    def _in_message(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(
            kind,
            item_id=message_id(self._job.id, self._number),
            output_index=self._number,
            content_index=0,
            **fields,
        )

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._next, **fields}
        self._next += 1
        return event
