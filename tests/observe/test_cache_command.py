from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from app.cli.main import main


@contextmanager
def served(client: FlaskClient) -> Iterator[str]:
    """The application of `client` behind a real HTTP server; its address."""
    server = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


def test_cache_stats_are_printed_as_json(make_client: Callable[..., FlaskClient]):
    client = make_client()
    token = client.environ_base["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    with served(client) as url:
        result = CliRunner().invoke(main, ["cache", "stats", "--url", url, "--token", token])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["lookups"] == 0
    assert {"hits", "vetoes", "saved_cost"} <= set(found)


def test_cache_stats_without_a_right_are_refused_in_one_line(
    make_client: Callable[..., FlaskClient],
):
    with served(make_client()) as url:
        result = CliRunner().invoke(main, ["cache", "stats", "--url", url, "--token", "nonsense"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
