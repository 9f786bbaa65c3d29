"""`Shelf`: jobs in the journal, where other replicas see them, may cancel them, and a later server finds them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from forecasting.errors import DataError, HarmonyError
from harmony.api.job_state import JobState
from harmony.api.ports import JobsPort
from harmony.journal.cells import LATEST_S
from harmony.journal.stored import StoredJob
from harmony.schema.exact import restored

__all__ = ["KEPT", "Shelf"]

log = logging.getLogger(__name__)
KEPT = 64  # jobs that have ended
MOST = 500
LOST_S = 60.0  # a server that has not said a word about its job for so long is gone, and the job with it
T = TypeVar("T")
TIMES_AND_PROGRESS = ("started_s", "ended_s", "progress", "note")


class Shelf:
    """Jobs as rows of the journal. A job that has ended stays as it is: the journal sees to that.

    The server that works on a job writes it often; a journal in trouble costs it nothing but what others see.
    """

    def __init__(self, journal: JobsPort, now_s: Callable[[], float] = time.time) -> None:  # noqa: TID251
        self._journal, self._now_s = journal, now_s
        self._in_trouble = False

    # ---- for the server that works on it --------------------------------------------------------------------
    def put(self, job: JobState) -> None:
        """Keep its newer state; trouble is logged once, not raised."""
        self._tried(lambda: self._journal.put_job(self._row(job)))

    def is_cancelled(self, job_id: str) -> bool:
        """Whether some server was asked to cancel it; False where that cannot be known."""
        found = self._tried(lambda: self._journal.job(job_id))
        return found is not None and found.state == "cancelled"

    def trim(self) -> None:
        """Forget the oldest that have ended, beyond `KEPT`."""
        ended = self._tried(lambda: [job for job in self.all() if job.ended_s is not None])
        for job_id in [job.id for job in (ended or ())[KEPT:]]:
            self._tried(lambda job_id=job_id: self._journal.remove_job(job_id))  # type: ignore[misc]

    # ---- for all servers ------------------------------------------------------------------------------------
    def get(self, job_id: str) -> JobState | None:
        """A job; raises `HarmonyError` while the journal cannot be read."""
        found = self._journal.job(job_id)
        return None if found is None else self._job(found)

    def all(self) -> list[JobState]:
        """All, newest first; raises `HarmonyError` while the journal cannot be read."""
        found = []
        for row in self._journal.jobs(limit=MOST):
            try:
                found.append(self._job(row))
            except DataError as error:  # one damaged job hides no other
                log.error("%s; it is passed over", error)
        return found

    def cancel(self, job: JobState) -> JobState | None:
        """Write down that it ends; the server that works on it reads that within seconds. Returns it as it stands."""
        self._journal.put_job(self._row(replace(job, state="cancelled", ended_s=self._now_s())))
        return self.get(job.id)

    # ---- rows -----------------------------------------------------------------------------------------------
    def _row(self, job: JobState) -> StoredJob:
        return StoredJob(
            id=job.id,
            kind=job.kind,
            state=job.state,
            created_s=job.created_s,
            updated_s=self._now_s(),
            request={"by": job.by},
            progress={name: getattr(job, name) for name in TIMES_AND_PROGRESS},
            result=job.result,
            error=job.error,
        )

    def _job(self, row: StoredJob) -> JobState:
        progress = {name: row.progress[name] for name in TIMES_AND_PROGRESS if name in row.progress}
        values = {name: getattr(row, name) for name in ("id", "kind", "created_s", "state", "error", "result")}
        try:
            found = restored(JobState, {**values, "by": str(row.request.get("by", "")), **progress})
        except DataError as error:
            raise DataError(f"job {row.id} cannot be read: {error}") from error
        times = (t for t in (found.started_s, found.ended_s) if t is not None)
        if not (0.0 <= found.progress <= 1.0 and all(abs(t) < LATEST_S for t in times)):
            raise DataError(f"job {row.id} cannot be read: its progress or times are none")
        if found.ended_s is None and self._now_s() - row.updated_s > LOST_S:
            return replace(found, state="failed", ended_s=row.updated_s, error="the server that worked on it is gone")
        return found

    def _tried(self, ask: Callable[[], T]) -> T | None:
        try:
            answer = ask()
        except HarmonyError as error:
            if not self._in_trouble:
                log.warning("%s; jobs go on, but other servers do not see how", error)
            self._in_trouble = True
            return None
        self._in_trouble = False
        return answer
