"""A small HTTP client of our own API, for the command line and the demo."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from app.stack.up import stack_file

TIMEOUT_SECONDS = 10.0


class ClientError(Exception):
    """The API refused, or could not be reached."""


@dataclass(frozen=True)
class Target:
    """Where the API is, and the token for it."""

    url: str
    token: str


def find_target(url: str | None, token: str | None, data: Path) -> Target:
    """From the options, INFERENCEFLOW_URL and INFERENCEFLOW_TOKEN, or a stack running here.

    Raises ClientError.
    """
    url = url or os.environ.get("INFERENCEFLOW_URL")
    token = token or os.environ.get("INFERENCEFLOW_TOKEN")
    if not (url and token) and stack_file(data).exists():
        running = json.loads(stack_file(data).read_text())
        url, token = url or running["url"], token or running["token"]
    if not url or not token:
        raise ClientError(
            "no API to talk to: start one with `inferenceflow up`, or set INFERENCEFLOW_URL "
            "and INFERENCEFLOW_TOKEN"
        )
    return Target(url.rstrip("/"), token)


class Client:
    """Calls to the API; a refusal becomes a ClientError with the problem's detail."""

    def __init__(self, target: Target) -> None:
        self._url = target.url
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy or ~/.netrc must not see the token
        self._session.headers["Authorization"] = f"Bearer {target.token}"

    def call(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """One call. Raises ClientError."""
        response = self._send(method, path, body=body, query=query, timeout=timeout)
        return {} if response.status_code == 204 else self._json(response)

    def text(self, path: str, *, query: dict[str, Any] | None = None) -> str:
        """What a GET gives that is not JSON. Raises ClientError."""
        return self._send("GET", path, body=None, query=query, timeout=TIMEOUT_SECONDS).text

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None,
        query: dict[str, Any] | None,
        timeout: float,
    ) -> requests.Response:
        try:
            response = self._session.request(
                method, self._url + path, json=body, params=query, timeout=timeout
            )
        except requests.RequestException as error:
            raise ClientError(f"{self._url} cannot be reached ({type(error).__name__})") from None
        if not response.ok:
            content = self._json(response)
            raise ClientError(f"{response.status_code}: {content.get('detail', content)}")
        return response

    def _json(self, response: requests.Response) -> dict[str, Any]:
        try:
            content: dict[str, Any] = response.json()
        except requests.JSONDecodeError:
            raise ClientError(f"{self._url} does not speak like InferenceFlow") from None
        return content

    def submit(self, body: dict[str, Any], *, wait: float = 0) -> dict[str, Any]:
        """Submit a prompt; the job, ended if it ended within `wait` seconds."""
        query = {"wait": wait} if wait else None
        return self.call(
            "POST", "/v1/inference", body=body, query=query, timeout=wait + TIMEOUT_SECONDS
        )

    def job(self, job_id: str, *, wait: float = 0) -> dict[str, Any]:
        """A job, ended if it ended within `wait` seconds."""
        query = {"wait": wait} if wait else None
        return self.call("GET", f"/v1/jobs/{job_id}", query=query, timeout=wait + TIMEOUT_SECONDS)
