"""Decisions and their inputs, services, audit, keys, jobs; append-only where it is a record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# what retention compares with the mark that it sets: ids sort by time
APPEND_ONLY = (("decisions", "id"), ("inputs", "decision_id"), ("audit", "at_s"))


def upgrade() -> None:
    """Create everything."""
    postgres = op.get_bind().dialect.name == "postgresql"
    whole = sa.BigInteger() if postgres else sa.Integer()
    ident = sa.Text(collation="C") if postgres else sa.Text()

    def texts(*names: str) -> list[sa.Column[str]]:
        return [sa.Column(name, sa.Text(), nullable=False) for name in names]

    def wholes(*names: str) -> list[sa.Column[int]]:
        return [sa.Column(name, whole, nullable=False) for name in names]

    def numbers(*names: str, nullable: bool = False) -> list[sa.Column[float]]:
        return [sa.Column(name, sa.Double(), nullable=nullable) for name in names]

    op.create_table(
        "decisions",
        sa.Column("id", ident, primary_key=True),
        *texts("service"),
        *numbers("at_s"),
        *texts("kind", "target", "mode", "effective_mode", "unit", "demand_name", "gpu_type", "currency"),
        *numbers("step_s", "interval_s"),
        *numbers("demand", nullable=True),
        *wholes("seen_ordered", "seen_ready"),
        *numbers("risk_level", nullable=True),
        *wholes("ordered", "ready", "replicas", "current", "unconstrained"),
        *texts("reason", "bound_by"),
        *numbers("violation_probability", "expected_cost", nullable=True),
        *texts("model"),
        *wholes("desired"),
        *texts("held_by"),
        *wholes("applied", "outcome_steps", "outcome_violated"),
        sa.Column("candidates", sa.Text(), nullable=True),
        *texts("quantiles", "context"),
    )
    op.create_index("decisions_service", "decisions", ["service", "id"])
    op.create_table(
        "inputs",
        sa.Column("decision_id", ident, primary_key=True),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "services",
        sa.Column("service", sa.Text(), primary_key=True),
        *numbers("at_s"),
        sa.Column("decision_id", ident, nullable=False),
        *texts("summary"),
        sa.Column("series", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", whole, primary_key=True, autoincrement=True),
        *numbers("at_s"),
        *texts("actor", "action", "detail"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), primary_key=True),
        *texts("name", "role", "secret_hash"),
        *numbers("created_s"),
        *numbers("expires_s", "revoked_s", nullable=True),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), primary_key=True),
        *texts("kind", "state"),
        *numbers("created_s", "updated_s"),
        *texts("request", "progress"),
        sa.Column("result", sa.Text(), nullable=True),
        *texts("error"),
    )
    op.create_table("meta", sa.Column("key", sa.Text(), primary_key=True), *texts("value"))
    if postgres:
        _guard_postgres()
    else:
        _guard_sqlite()


def _guard_sqlite() -> None:
    """Refuse changes; retention opens the gate for what is older than the time it writes into `meta`.

    It takes that time away again in the same transaction, and SQLite has one writer, so nobody else ever sees it.
    """
    for table, column in APPEND_ONLY:
        mark = "CAST(value AS REAL)" if column == "at_s" else "value"
        gate = f"EXISTS (SELECT 1 FROM meta WHERE key = 'retaining {table}' AND OLD.{column} < {mark})"
        refuse = f"SELECT RAISE(ABORT, '{table} are append-only: rows leave through retention alone')"
        op.execute(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {refuse}; END")
        op.execute(f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {gate} BEGIN {refuse}; END")
    # INSERT OR REPLACE would delete without a word to the triggers above: what is there stays.
    for table, key in (("decisions", "id"), ("inputs", "decision_id")):
        op.execute(
            f"CREATE TRIGGER {table}_once BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) BEGIN SELECT RAISE(IGNORE); END"
        )


def _guard_postgres() -> None:
    """The same: retention sets `harmony.retaining_<table>` for its own transaction."""
    for table, column in APPEND_ONLY:
        mark = f"nullif(current_setting('harmony.retaining_{table}', true), '')"
        mark = f"({mark})::double precision" if column == "at_s" else f'{mark} COLLATE "C"'
        op.execute(
            f"""
            CREATE FUNCTION harmony_{table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP = 'DELETE' THEN
                    IF OLD.{column} < {mark} THEN
                        RETURN OLD;
                    END IF;
                END IF;
                RAISE EXCEPTION '{table} are append-only: rows leave through retention alone';
            END $$
            """
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION harmony_{table}_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION harmony_{table}_append_only()"
        )
