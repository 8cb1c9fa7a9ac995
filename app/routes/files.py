"""Files, in OpenAI's shape: upload, list, look at, read, delete."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from app.documents import Parameters, openai_answers
from app.identity import caller
from app.openai_jobs import json_answer
from app.problems import FieldFault, Problem
from app.services import services
from tasks.files import StoredFile, copy, pieces

files_api = APIBlueprint(
    "files",
    __name__,
    url_prefix="/v1/files",
    abp_tags=[Tag(name="Files", description="Uploads, and what batches leave behind.")],
    abp_security=[{"token": []}],
)

PURPOSES = ("batch", "user_data")
MIN_KEEP_SECONDS, MAX_KEEP_SECONDS = 3_600, 2_592_000
MULTIPART_ROOM = 100_000  # bytes for the form around a file
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class FilePath(BaseModel):
    """Names a file."""

    file_id: str = Field(max_length=100)


class FileListQuery(Parameters):
    """A page of files."""

    limit: int = Field(default=100, ge=1, le=10_000)
    after: str | None = Field(default=None, max_length=100, description="The last id seen.")
    purpose: str | None = Field(default=None, max_length=40)
    order: str = Field(default="desc", pattern="^desc$", description="Newest first.")


_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_KEEP_SECONDS,
                            "maximum": MAX_KEEP_SECONDS,
                        },
                    },
                }
            }
        },
    }
}


@files_api.post(
    "",
    summary="Upload a file",
    responses=openai_answers(200, 400, 401, 413, 429),
    openapi_extensions=_UPLOAD,
)
def upload_file() -> Response:
    """A form with `file` and `purpose`. The content is not looked at before it is used."""
    current, who = services(), caller()
    most = current.settings.batch_max_bytes
    request.max_content_length = most + MULTIPART_ROOM
    upload = request.files.get("file")
    if upload is None:
        raise _bad("file", "is missing")
    purpose = request.form.get("purpose", "")
    if purpose not in PURPOSES:
        raise _bad("purpose", f"must be one of {', '.join(PURPOSES)}")
    keep = _keep_seconds(current.settings.file_retention_seconds)
    with current.files.writing(
        who.tenant,
        filename=_UNPRINTABLE.sub("", upload.filename or "")[-200:] or "upload",
        purpose=purpose,
        keep_seconds=keep,
    ) as new:
        copy(pieces(upload.stream, most), new.sink)
    return json_answer(file_object(new.record))


@files_api.get("", summary="List files, newest first", responses=openai_answers(200, 404))
def list_files(query: FileListQuery) -> Response:
    """The tenant's files."""
    found = services().files.page(
        caller().tenant, after=query.after, limit=query.limit, purpose=query.purpose
    )
    return json_answer(list_object([file_object(file) for file in found], query.limit))


@files_api.get("/<file_id>", summary="Look at a file", responses=openai_answers(200, 401, 404))
def get_file(path: FilePath) -> Response:
    """Name, purpose, size and times."""
    return json_answer(file_object(_listed(path.file_id)))


@files_api.get("/<file_id>/content", summary="Read a file", responses=openai_answers(200, 401, 404))
def get_content(path: FilePath) -> Response:
    """The bytes as they were uploaded, or the results of a batch."""
    file = _listed(path.file_id)
    response = current_app.response_class(
        services().files.chunks(file), mimetype="application/octet-stream"
    )
    response.content_length = file.size
    return response


@files_api.delete("/<file_id>", summary="Delete a file", responses=openai_answers(200, 401, 404))
def delete_file(path: FilePath) -> Response:
    """A batch that was made of it goes on: it has a copy of its own."""
    file = _listed(path.file_id)
    services().files.delete(file.id, file.tenant)
    return json_answer({"id": file.id, "object": "file", "deleted": True})


def file_object(file: StoredFile) -> dict[str, Any]:
    """The file in OpenAI's shape."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_object(data: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page in OpenAI's shape."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(data) == limit,
    }


def _listed(file_id: str) -> StoredFile:
    file = services().files.get(file_id, caller().tenant)
    if not file.listed:
        raise Problem(404, "unknown-file", "No such file. It may have expired.")
    return file


def _keep_seconds(default: int) -> int:
    anchor = request.form.get("expires_after[anchor]")
    seconds = request.form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return default
    if anchor != "created_at":
        raise _bad("expires_after[anchor]", "must be created_at")
    if (
        seconds is None
        or not seconds.isdecimal()
        or not MIN_KEEP_SECONDS <= int(seconds) <= MAX_KEEP_SECONDS
    ):
        raise _bad(
            "expires_after[seconds]", f"must be from {MIN_KEEP_SECONDS} to {MAX_KEEP_SECONDS}"
        )
    return int(seconds)


def _bad(field: str, message: str) -> Problem:
    return Problem(
        422, "invalid-request", f"{field}: {message}.",
        errors=[FieldFault(field=field, message=message)],
    )  # fmt: skip
