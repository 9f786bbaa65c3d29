"""Runs migrations on the connection, and in the transaction, that `harmony.journal.migrating` hands over."""

from __future__ import annotations

from alembic import context

from harmony.journal.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
