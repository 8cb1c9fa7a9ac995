"""The console: one page over the public API, which it asks with the token of whoever looks."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

FOLDER = Path(__file__).parent.parent / "console"
# Nothing from elsewhere, nothing inline, no frames, no forms that lead away.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

console_api = Blueprint("console", __name__, url_prefix="/console")


@console_api.get("")
def page() -> Response:
    """The page. It holds no data."""
    return send_from_directory(FOLDER, "console.html")


@console_api.get("/<any('console.js', 'plot.js', 'console.css'):name>")
def part(name: str) -> Response:
    """Its script and style."""
    return send_from_directory(FOLDER, name)


@console_api.after_request
def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-cache"
    return response
