"""What the API needs of others, as protocols: the command line puts the real ones in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forecasting.distribution import ForecastDistribution
from forecasting.explaining import Explanation
from forecasting.panel import Panel
from harmony.journal.stored import ApiKey, AuditEntry, StoredDecision, StoredJob
from harmony.serving.points import Point

__all__ = [
    "ExplainForecastPort",
    "ExplainPort",
    "ForecastPort",
    "JobsPort",
    "JournalPort",
    "MetricsPort",
    "ModelsPort",
    "TokenReviewer",
    "TokenUser",
    "WorkPort",
]


class JournalPort(Protocol):
    """The journal as the API reads it. Called on worker threads; raises HarmonyError when it cannot be used now."""

    def decisions(self, service: str, *, before: str | None, limit: int) -> Sequence[StoredDecision]:
        """Newest first, older than the id ``before``."""
        ...

    def decision(self, decision_id: str) -> StoredDecision | None:
        """One decision."""
        ...

    def points(self, service: str, first_s: float, last_s: float, every_s: float) -> Sequence[Point]:
        """Turns before ``last_s``, oldest first; one of every ``every_s`` seconds where that is not 0."""
        ...

    def audit(self, actor: str, action: str, detail: Mapping[str, Any]) -> object:
        """Write down a mutation."""
        ...

    def audits(self, *, before: str | None, limit: int, action: str | None = None) -> Sequence[AuditEntry]:
        """Newest first, older than the id ``before``; of one ``action`` if given."""
        ...

    def add_key(self, key: ApiKey, /) -> None:
        """Keep a new key."""
        ...

    def keys(self) -> Sequence[ApiKey]:
        """All keys, revoked ones too."""
        ...

    def revoke_key(self, key_id: str) -> bool:
        """Revoke; False when there is none of that id, or it was revoked before."""
        ...


class JobsPort(Protocol):
    """The journal as jobs are kept in it; raises HarmonyError when it cannot be used now."""

    def put_job(self, job: StoredJob, /) -> None:
        """Keep a job, or its newer state; one that has ended stays as it is."""
        ...

    def job(self, job_id: str, /) -> StoredJob | None:
        """The job of that id."""
        ...

    def jobs(self, *, limit: int) -> Sequence[StoredJob]:
        """Newest first."""
        ...

    def remove_job(self, job_id: str, /) -> bool:
        """Forget a job."""
        ...


# (history, horizon, samples) -> joint sample paths; called on one worker thread; InputError for what it cannot use
ForecastPort = Callable[[Panel, int, int], ForecastDistribution]
# (history, horizon) -> what moved the forecast of its first indicator; called on the same thread, raises the same
ExplainForecastPort = Callable[[Panel, int], Explanation]
# a decision recomputed from the journal, in the shape of `harmony.api.models.Explanation`; None for an unknown id
ExplainPort = Callable[[str], Mapping[str, Any] | None]
# what forecasters there are: plain values in the shape of `harmony.api.models.ModelCard`
ModelsPort = Callable[[], Sequence[Mapping[str, Any]]]
# (kind of job, its request, report(done, total, note)) -> its result; runs in a process of its own, so it is importable
WorkPort = Callable[[str, Mapping[str, Any], Callable[[int, int, str], None]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TokenUser:
    """Whom the API server says that a token belongs to."""

    name: str
    groups: tuple[str, ...]


# the user of a bearer token, None when the API server does not know it; may raise HarmonyError when it cannot be asked
TokenReviewer = Callable[[str], Awaitable[TokenUser | None]]


class MetricsPort(Protocol):
    """`harmony.metrics.Metrics`."""

    def exposition(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
        """Body and headers; called on a worker thread."""
        ...
