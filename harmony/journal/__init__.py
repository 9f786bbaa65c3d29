"""The journal: every decision with all that it was made of, append-only, in SQLite or PostgreSQL."""

from harmony.journal.errors import JournalError, JournalUnavailable, JournalVersionError
from harmony.journal.explaining import Difference, Explanation, explain
from harmony.journal.exporting import export_to
from harmony.journal.retention import Removed
from harmony.journal.store import JournalStore
from harmony.journal.stored import ApiKey, AuditEntry, Info, StoredDecision, StoredJob
from harmony.journal.writer import JournalWriter

__all__ = [
    "ApiKey",
    "AuditEntry",
    "Difference",
    "Explanation",
    "Info",
    "JournalError",
    "JournalStore",
    "JournalUnavailable",
    "JournalVersionError",
    "JournalWriter",
    "Removed",
    "StoredDecision",
    "StoredJob",
    "explain",
    "export_to",
]
