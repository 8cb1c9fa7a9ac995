"""The command line against the API over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from app.api import API, create_app
from app.cli.main import main
from app.identity import mint_token
from config.settings import Settings
from tasks.database import Database
from tasks.schema import upgrade

Run = Callable[..., Result]


@pytest.fixture
def api(redis_url: str, prefix: str, tmp_path: Path) -> API:
    url = f"sqlite:///{tmp_path}/accounts.db"
    database = Database(url)
    upgrade(database)
    database.close()
    values = {"redis_url": redis_url, "key_prefix": prefix, "database_url": url}
    return create_app(
        Settings(  # type: ignore[call-arg]
            _env_file=None,
            jwt_secret_key="a-secret-that-only-the-tests-sign-with",
            rate_limit_requests=1_000_000,
            **values,
        )
    )


@pytest.fixture
def run(api: API) -> Iterator[Run]:
    """Run a command as somebody who administers everything; fails if the exit status differs."""
    server = make_server("127.0.0.1", 0, api, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with api.app_context():
        token = mint_token(
            api.extensions["inferenceflow"].settings,
            user="root",
            tenant="acme",
            role="admin",
            scopes=["platform", "admin", "jobs:read", "jobs:write", "usage:read"],
            expires=timedelta(hours=1),
        )
    env = {
        "INFERENCEFLOW_URL": f"http://127.0.0.1:{server.server_port}",
        "INFERENCEFLOW_TOKEN": token,
        "COLUMNS": "200",
    }

    def command(*arguments: str, status: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, env=env, input=given)
        assert result.exit_code == status, result.output
        return result

    yield command
    server.shutdown()
    thread.join()
    server.server_close()
