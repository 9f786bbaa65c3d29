"""An audit of one actor is read without walking through everybody's."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index the audit by actor."""
    op.create_index("audit_actor", "audit", ["actor", "id"])
