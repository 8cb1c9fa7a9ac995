"""`inferenceflow`: start the processes, and use a running one."""

from __future__ import annotations

import click

from app.cli.admin import admin
from app.cli.cache import cache, route
from app.cli.database import db
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.init import init, probe
from app.cli.jobs import jobs, submit
from app.cli.processes import api, beat, worker
from app.cli.scaler import scaler
from app.cli.stack import up
from app.cli.tokens import token
from app.cli.usage import usage


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inferenceflow")
def main() -> None:
    """A self-hosted inference broker."""


COMMANDS = (
    up, demo, doctor, token, submit, jobs, route, cache, usage, scaler, admin,
    api, worker, beat, db, init, probe,
)  # fmt: skip
for command in COMMANDS:
    main.add_command(command)
