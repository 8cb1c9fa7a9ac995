"""What Alembic runs. The connection comes from tasks/schema.py, inside its transaction."""

from __future__ import annotations

from alembic import context

from tasks.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
context.run_migrations()
