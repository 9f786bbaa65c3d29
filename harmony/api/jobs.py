"""`Jobs`: work that takes minutes, one at a time in a process of its own, so that answers are not kept waiting."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from forecasting.errors import HarmonyError
from harmony.api.job_state import JobState
from harmony.api.shelf import KEPT, Shelf

__all__ = ["Jobs", "JobsFull"]

log = logging.getLogger(__name__)
QUEUE = 8
LIMIT_S = 1800.0
BEAT_S = 1.0  # between two looks at the shelf, and signs of life on it, while a job runs


class JobsFull(Exception):  # noqa: N818
    """So many wait already that no more are taken."""


class Jobs:
    """A queue with one worker; finished jobs are kept, the oldest forgotten beyond `KEPT`.

    Args:
        work: "module:function" of `harmony.api.ports.WorkPort`, imported in the worker's process.
        now_s: the time.
        limit_s: how long one job may take.
        shelf: where other servers see these jobs, and this one those of others; None for a server by itself.

    Methods may wait for the shelf's journal, and those about jobs of other servers raise `HarmonyError` with it.
    """

    def __init__(
        self,
        work: str,
        now_s: Callable[[], float] = time.time,  # noqa: TID251
        limit_s: float = LIMIT_S,
        shelf: Shelf | None = None,
    ) -> None:
        self._work, self._now_s, self._limit_s, self._shelf = work, now_s, limit_s, shelf
        self._jobs: OrderedDict[str, JobState] = OrderedDict()
        self._requests: dict[str, Mapping[str, Any]] = {}
        self._queue: deque[str] = deque()
        self._changed = threading.Condition()
        self._cancelled: set[str] = set()
        self._stopping = False
        self._beat_s = 0.0
        self._thread: threading.Thread | None = None

    def start(self, kind: str, request: Mapping[str, Any], by: str) -> JobState:
        """Queue a job; raises `JobsFull`."""
        with self._changed:
            if len(self._queue) >= QUEUE or self._stopping:
                raise JobsFull
            job = JobState(secrets.token_hex(8), kind, by, self._now_s())
            self._jobs[job.id], self._requests[job.id] = job, request
            self._queue.append(job.id)
            while len(self._jobs) > KEPT:
                ended = next((i for i, j in self._jobs.items() if j.ended_s is not None), None)
                if ended is None:
                    break
                del self._jobs[ended]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="harmony-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        self._keep(job.id)
        return job

    def get(self, job_id: str) -> JobState | None:
        """A job."""
        with self._changed:
            mine = self._jobs.get(job_id)
        if self._shelf is None or (mine is not None and mine.ended_s is not None):
            return mine
        if mine is None:
            return self._shelf.get(job_id)
        return replace(mine, state="cancelled") if self._shelf.is_cancelled(job_id) else mine

    def all(self) -> list[JobState]:
        """All that are kept, newest first."""
        with self._changed:
            mine = dict(self._jobs)
        others = [] if self._shelf is None else [job for job in self._shelf.all() if job.id not in mine]
        return sorted([*mine.values(), *others], key=lambda job: job.created_s, reverse=True)

    def cancel(self, job_id: str) -> JobState | None:
        """Cancel a job that has not ended; returns it as it then stands, None where there is none."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and job.ended_s is not None:
                return job
            if job_id in self._queue:
                self._queue.remove(job_id)
                self._requests.pop(job_id, None)
                job = self._set(job_id, state="cancelled", ended_s=self._now_s())
            elif job is not None:
                self._cancelled.add(job_id)
                self._changed.notify_all()
                self._changed.wait_for(lambda: job_id not in self._cancelled, timeout=5.0)
                return self._jobs.get(job_id)
        if job is not None:
            self._keep(job_id)
            return job
        other = None if self._shelf is None else self._shelf.get(job_id)
        if self._shelf is None or other is None or other.ended_s is not None:
            return other
        return self._shelf.cancel(other)

    def close(self) -> None:
        """End what runs and take no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(10.0)
        with self._changed:
            waiting = [job.id for job in self._jobs.values() if job.state == "queued"]
            for job_id in waiting:
                self._set(job_id, state="cancelled", ended_s=self._now_s())
        for job_id in waiting:
            self._keep(job_id)

    # ---- worker ---------------------------------------------------------------------------------------------
    def _set(self, job_id: str, **changes: Any) -> JobState:  # noqa: ANN401
        with self._changed:
            job = self._jobs[job_id] = replace(self._jobs[job_id], **changes)
            return job

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                job_id = self._queue.popleft()
                request = self._requests.pop(job_id)
                job = self._set(job_id, state="running", started_s=self._now_s())
            try:
                ending = self._in_process(job, request)
            except Exception as error:
                log.exception("a job broke")
                ending = {"state": "failed", "error": type(error).__name__}
            with self._changed:
                self._set(job_id, ended_s=self._now_s(), **ending)
                self._cancelled.discard(job_id)
                self._changed.notify_all()
            self._keep(job_id)
            if self._shelf is not None:
                self._shelf.trim()

    def _keep(self, job_id: str) -> None:
        """Put it where other servers see it; not while holding the lock, because a journal may make us wait."""
        job = self._jobs.get(job_id)
        if self._shelf is not None and job is not None:
            self._shelf.put(job)

    def _stopped(self, job_id: str, until_s: float) -> dict[str, Any] | None:
        """What ends a job from outside: a caller, the server's end, the limit, a caller of another server; or None."""
        if job_id in self._cancelled or self._stopping:
            return {"state": "cancelled"}
        now_s = time.monotonic()
        if now_s > until_s:
            return {"state": "failed", "error": f"it took longer than {self._limit_s:g} s"}
        if self._shelf is not None and now_s >= self._beat_s:
            self._beat_s = now_s + BEAT_S
            if self._shelf.is_cancelled(job_id):
                return {"state": "cancelled"}
            with self._changed:
                alive = [job_id, *self._queue]
            for sign_of_life in alive:
                self._keep(sign_of_life)
        return None

    def _in_process(self, job: JobState, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one job to its end, whatever that is; returns what to note of it."""
        until_s = time.monotonic() + self._limit_s
        if self._shelf is not None and self._shelf.is_cancelled(job.id):
            return {"state": "cancelled"}
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(there, self._work, job.kind, dict(request)), daemon=True)
        process.start()
        there.close()
        try:
            while True:
                ending = self._stopped(job.id, until_s)
                if ending is not None:
                    return ending
                if not here.poll(0.1):
                    continue
                what, value = here.recv()
                if what == "progress":
                    self._set(job.id, progress=value[0], note=value[1])
                elif what == "done":
                    return {"state": "done", "progress": 1.0, "result": value}
                else:
                    return {"state": "failed", "error": value}
        except EOFError:
            process.join(5.0)
            return {"state": "failed", "error": f"its process ended ({process.exitcode})"}
        finally:
            if process.is_alive():
                process.terminate()
                process.join(5.0)
                if process.is_alive():
                    process.kill()
            here.close()


def _child(pipe: Connection, work: str, kind: str, request: dict[str, Any]) -> None:
    """The process of one job."""
    module, _, name = work.partition(":")

    def report(done: int, total: int, note: str) -> None:
        pipe.send(("progress", (min(1.0, done / max(1, total)), note)))

    try:
        result = getattr(importlib.import_module(module), name)(kind, request, report)
    except HarmonyError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:  # the process has nobody else to tell
        log.exception("a job failed")
        pipe.send(("failed", f"a fault of the server: {type(error).__name__}"))
    else:
        pipe.send(("done", dict(result)))
