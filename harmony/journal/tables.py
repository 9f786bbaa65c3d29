"""The tables, as SQLAlchemy Core sees them; migrations make them (see `migrations/versions`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

__all__ = [
    "API_KEYS",
    "AUDIT",
    "DECIDED",
    "DECISIONS",
    "INPUTS",
    "JOBS",
    "META",
    "METADATA",
    "SERVICES",
    "VERSION_TABLE",
]

METADATA = MetaData()
VERSION_TABLE = "harmony_journal_version"

WHOLE = BigInteger().with_variant(Integer, "sqlite")  # 64 bits on both
ID = Text().with_variant(Text(collation="C"), "postgresql")  # sorted by bytes everywhere, whatever the locale

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("service", Text, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("effective_mode", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("demand_name", Text, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("step_s", Double, nullable=False),
    Column("interval_s", Double, nullable=False),
    Column("demand", Double),  # NULL: absent, here and in all that follows
    Column("seen_ordered", WHOLE, nullable=False),
    Column("seen_ready", WHOLE, nullable=False),
    Column("risk_level", Double),
    Column("ordered", WHOLE, nullable=False),
    Column("ready", WHOLE, nullable=False),
    Column("replicas", WHOLE, nullable=False),
    Column("current", WHOLE, nullable=False),
    Column("unconstrained", WHOLE, nullable=False),
    Column("reason", Text, nullable=False),
    Column("bound_by", Text, nullable=False),
    Column("violation_probability", Double),
    Column("expected_cost", Double),
    Column("model", Text, nullable=False),
    Column("desired", WHOLE, nullable=False),
    Column("held_by", Text, nullable=False),
    Column("applied", WHOLE, nullable=False),
    Column("outcome_steps", WHOLE, nullable=False),
    Column("outcome_violated", WHOLE, nullable=False),
    Column("candidates", Text),  # JSON, one list per column; NULL where the policy weighs none
    Column("quantiles", Text, nullable=False),  # JSON
    Column(
        "context", Text, nullable=False
    ),  # JSON: objective, behavior, capacity, lead time, scores, more of the decision
    Index("decisions_service", "service", "id"),
)

# Fields of a decision that have a column of their own (text: their JSON). Columns stay as they were made; what a
# decision has beyond them stands in `context`, so that a new field needs no new table.
DECIDED = (
    "replicas", "current", "unconstrained", "reason", "bound_by", "violation_probability", "expected_cost", "model",
    "candidates", "quantiles",
)  # fmt: skip

INPUTS = Table(
    "inputs",
    METADATA,
    Column("decision_id", ID, primary_key=True),
    Column("blob", LargeBinary, nullable=False),
)

SERVICES = Table(
    "services",
    METADATA,
    Column("service", Text, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("decision_id", ID, nullable=False),
    Column("summary", Text, nullable=False),  # JSON: conditions, scores, totals
    Column("series", LargeBinary, nullable=False),  # history and, for followers, the whole forecast
)

AUDIT = Table(
    "audit",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("at_s", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    Index("audit_actor", "actor", "id"),
    sqlite_autoincrement=True,
)

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),  # salted with the id; the secret itself is never here
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("updated_s", Double, nullable=False),
    Column("request", Text, nullable=False),  # JSON
    Column("progress", Text, nullable=False),  # JSON
    Column("result", Text),  # JSON
    Column("error", Text, nullable=False),
)

META = Table("meta", METADATA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
