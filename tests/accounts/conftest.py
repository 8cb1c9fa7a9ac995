"""Databases of both kinds, and the API on one of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, text

from app.api import API, create_app
from app.identity import mint_token
from app.services import Services
from config.settings import Settings
from tasks.accounts import now_ms
from tasks.database import Database
from tasks.models import Tenant
from tasks.schema import upgrade
from tests.accounts.postgres import Server, running_postgres

SECRET = "a-secret-that-only-the-tests-sign-with"
Headers = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def upgraded_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every table and no row, to be copied."""
    file = tmp_path_factory.mktemp("upgraded") / "accounts.db"
    made = Database(f"sqlite:///{file}")
    upgrade(made)
    made.close()  # the last to close brings the write-ahead log into the file
    return file


@pytest.fixture(scope="session")
def postgres_admin(postgres_server: Server) -> Iterator[Connection]:
    """A connection that makes databases; `upgraded` is one with every table and no row."""
    admin = Database(postgres_server.url)
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE upgraded"))
        made = Database(postgres_server.url.removesuffix("postgres") + "upgraded")
        upgrade(made)
        made.close()
        yield connection
    admin.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/accounts.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of each kind with every table and no row."""
    if request.param == "sqlite":
        url = str(request.getfixturevalue("sqlite_url"))
        source: Path = request.getfixturevalue("upgraded_sqlite")
        shutil.copyfile(source, url.removeprefix("sqlite:///"))
        return url
    server: Server = request.getfixturevalue("postgres_server")
    admin: Connection = request.getfixturevalue("postgres_admin")
    name = f"test_{secrets.token_hex(6)}"
    admin.execute(text(f"CREATE DATABASE {name} TEMPLATE upgraded"))
    return server.url.removesuffix("postgres") + name


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


def make_settings(redis_url: str, prefix: str, database_url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "redis_url": redis_url,
        "key_prefix": prefix,
        "database_url": database_url,
        "jwt_secret_key": SECRET,
        "rate_limit_requests": 1_000_000,
        **changes,
    }
    return Settings(_env_file=None, **values)  # type: ignore[call-arg]


def token(api: API, **who: Any) -> dict[str, str]:
    """Authorization headers."""
    given = {"user": "ann", "tenant": "acme", "expires": timedelta(hours=1), **who}
    with api.app_context():
        signed = mint_token(services_of(api).settings, **given)
    return {"Authorization": f"Bearer {signed}"}


def services_of(api: API) -> Services:
    found: Services = api.extensions["inferenceflow"]
    return found


def add_tenant(database: Database, *names: str) -> None:
    with database.session() as session:
        for name in names:
            session.add(Tenant(name=name, title="", disabled=False, created_at=now_ms()))


@pytest.fixture
def api(redis_url: str, prefix: str, database: Database, database_url: str) -> Iterator[API]:
    """The API on a database with the tenants acme and other."""
    add_tenant(database, "acme", "other")
    made = create_app(make_settings(redis_url, prefix, database_url))
    yield made
    services_of(made).database.close()


@pytest.fixture
def make_api(redis_url: str, prefix: str, database_url: str) -> Iterator[Callable[..., API]]:
    """More processes of the same API, as it were; with other settings, if given."""
    made: list[API] = []

    def make(**changes: Any) -> API:
        values = {"prefix": prefix, "database_url": database_url, **changes}
        made.append(create_app(make_settings(redis_url, **values)))
        return made[-1]

    yield make
    for one in made:
        services_of(one).database.close()


@pytest.fixture
def client(api: API) -> FlaskClient:
    return api.test_client()


@pytest.fixture
def platform(api: API) -> dict[str, str]:
    """Headers of somebody who administers everything."""
    return token(
        api, user="root", tenant="ops", role="admin",
        scopes=["platform", "admin", "jobs:read", "jobs:write", "usage:read"],
    )  # fmt: skip


@pytest.fixture
def ann(api: API) -> dict[str, str]:
    return token(api)
