"""`JournalWriter`: keeps what a hub publishes, on a thread of its own; its trouble never reaches the loop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Self

from forecasting.errors import DataError
from harmony.journal.errors import JournalError, JournalUnavailable
from harmony.journal.rows import Encoded
from harmony.journal.store import JournalStore
from harmony.serving.hub import Hub
from harmony.serving.snapshot import Snapshot

__all__ = ["JournalWriter"]

log = logging.getLogger(__name__)

WAITING = 10_000  # turns that wait (encoded, about 10 kB each) while the journal is in trouble; then the oldest go
OFFERED = 2_000  # turns that wait to be encoded: they hold whole forecasts
BATCH = 1_000  # turns in one transaction
RETRY_S = (1.0, 30.0)  # first pause after a failure, doubled up to the second
FAREWELL_S = 10.0
HANGS_S = 10.0  # a write that has not come back for so long is trouble: a frozen server, a network that swallows all
BEHIND = "turns come faster than they are recorded"


class JournalWriter:
    """Takes snapshots at once and writes them in batches.

    While the journal is in trouble (disk full or read-only, server away, a write that does not come back) turns wait in
    memory and are tried again; beyond ``waiting`` of them the oldest are dropped and counted. `trouble` is a sentence
    for readiness and status, empty when all is well; ``on_trouble`` is called with it when trouble begins, and with ""
    when it is over. A write that takes ``hangs_s`` seconds is trouble, and so are writes that are too slow for what is
    offered; both are over when nothing waits any more.
    """

    def __init__(
        self,
        store: JournalStore,
        on_trouble: Callable[[str], None] | None = None,
        *,
        waiting: int = WAITING,
        retry_s: tuple[float, float] = RETRY_S,
        hangs_s: float = HANGS_S,
    ) -> None:
        self._store = store
        self._on_trouble = on_trouble
        self._limit = waiting
        self._retry_s = retry_s
        self._hangs_s = hangs_s
        self._write_began_s: float | None = None  # of the write that is under way
        self._is_behind = False  # the trouble is that writes take too long, not that they fail
        self._offered: deque[Snapshot] = deque()
        self._rows: deque[Encoded] = deque()
        self._writing = 0  # rows that are being written or encoded now
        self._changed = threading.Condition()
        self._stopping = False
        self._reason = ""
        self._unsubscribe: Callable[[], None] | None = None
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="harmony-journal", daemon=True)
        self._thread.start()

    # ---- the loop's side ------------------------------------------------------------------------------------
    def offer(self, snapshots: Sequence[Snapshot]) -> None:
        """Take turns to be kept; returns at once and never raises. A subscriber of `Hub`."""
        with self._changed:
            self._offered.extend(snapshots)
            too_many = max(0, len(self._offered) - max(OFFERED, len(snapshots)))  # a large fleet offers more at once
            for _ in range(too_many):
                self._offered.popleft()
            self.dropped += too_many
            self._changed.notify_all()
        reason = self._hangs() or (self._behind if too_many else "")
        if reason and not self._reason:  # the writer's own thread cannot say it: it is the one that waits
            self._is_behind = True
            self._say(reason)

    def follow(self, hub: Hub) -> Self:
        """Keep everything that ``hub`` publishes from now on."""
        self._unsubscribe = hub.subscribe(self.offer)
        return self

    @property
    def waiting(self) -> int:
        """Turns that are not yet kept."""
        return len(self._offered) + len(self._rows) + self._writing

    @property
    def trouble(self) -> str:
        """What is wrong, with how much waits and was lost so far; empty when all is well."""
        reason = self._reason or self._hangs()
        if not reason:
            return ""
        lost = f", {self.dropped} were dropped" if self.dropped else ""
        return f"{reason}; decisions go on, {self.waiting} of them wait to be recorded{lost}"

    def _hangs(self) -> str:
        """That a write has not come back for too long; empty for no."""
        began_s = self._write_began_s
        if began_s is None or monotonic() - began_s < self._hangs_s:
            return ""
        return f"journal {self._store.where}: a write has not come back for {self._hangs_s:g} s or more"

    @property
    def _behind(self) -> str:
        return f"journal {self._store.where}: {BEHIND}"

    def flush(self, timeout_s: float = FAREWELL_S) -> bool:
        """Wait until everything offered so far is kept; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self.waiting == 0, timeout_s)

    def close(self, timeout_s: float = FAREWELL_S) -> None:
        """Stop following, keep what waits if that is possible in ``timeout_s`` seconds, end the thread.

        The store stays open: it belongs to whoever opened it.
        """
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.flush(timeout_s if not self.trouble else 0.0)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self.waiting:
            log.error("journal: %d decisions were not recorded before the end", self.waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the writer's thread --------------------------------------------------------------------------------
    def _run(self) -> None:
        pause_s = retry_at = 0.0
        while True:
            with self._changed:
                # In trouble, turns that come meanwhile are taken, but nothing is written before the pause is over.
                wait_s = max(0.0, retry_at - monotonic()) if pause_s else None
                self._changed.wait_for(partial(self._has_work, bool(pause_s)), wait_s)
                stopping = self._stopping
                snapshots = list(self._offered)
                self._offered.clear()
                self._writing = len(snapshots)
            self._keep(snapshots)
            if stopping or monotonic() >= retry_at:
                pause_s = 0.0 if self._write() else min(max(2 * pause_s, self._retry_s[0]), self._retry_s[1])
                retry_at = monotonic() + pause_s
            if stopping:
                return

    def _has_work(self, pausing: bool) -> bool:
        return self._stopping or bool(self._offered) or (bool(self._rows) and not pausing)

    def _keep(self, snapshots: Sequence[Snapshot]) -> None:
        """Encode, which also lets go of whole forecasts."""
        rows = []
        for snapshot in snapshots:
            try:
                rows.append(self._store.encode(snapshot))
            except DataError as error:
                self._lose(f"a decision of {snapshot.service!r}: {error}")
            except Exception:  # a bug in keeping one turn must not end the record of all others
                log.exception("journal: a decision of %r cannot be kept", snapshot.service)
                self._lose("")
        with self._changed:
            self._rows.extend(rows)
            self._writing = 0
            while len(self._rows) > self._limit:
                self._rows.popleft()
                self.dropped += 1
            self._changed.notify_all()

    def _write(self) -> bool:
        """Write what waits; False while the journal is in trouble."""
        while self._rows:
            batch = [self._rows[i] for i in range(min(BATCH, len(self._rows)))]
            try:
                self._written(batch)
            except JournalUnavailable as error:
                self._say(str(error))
                return False
            except Exception as error:  # whatever it is, the thread goes on; one row at a time finds the culprit
                if not isinstance(error, JournalError):
                    log.exception("journal: a batch of %d decisions failed", len(batch))
                if not self._one_by_one(batch):
                    return False
            else:
                self._done(len(batch), kept=True)
            if self._is_behind and self.waiting:
                self._reason = self._behind
            else:
                self._is_behind = False
                self._say("")
        return True

    def _written(self, rows: Sequence[Encoded]) -> None:
        self._write_began_s = monotonic()
        try:
            self._store.write(rows)
        finally:
            self._write_began_s = None

    def _one_by_one(self, batch: Sequence[Encoded]) -> bool:
        """Write each row alone and drop those that fail; False while the journal is in trouble."""
        for row in batch:
            try:
                self._written([row])
            except JournalUnavailable as error:
                self._say(str(error))
                return False
            except Exception as error:  # noqa: BLE001  (it is told, and counted)
                self._done(1, kept=False)
                self._lose(f"a decision of {row.decision['service']!r}: {error}", counted=True)
            else:
                self._done(1, kept=True)
        return True

    def _done(self, count: int, *, kept: bool) -> None:
        with self._changed:
            for _ in range(count):
                self._rows.popleft()
            if kept:
                self.written += count
            else:
                self.dropped += count
            self._changed.notify_all()

    def _lose(self, text: str, *, counted: bool = False) -> None:
        if not counted:
            self.dropped += 1
        if text:
            log.error("journal: not recorded: %s", text)

    def _say(self, reason: str) -> None:
        """Tell of a change from well to trouble and back: once each."""
        before, self._reason = self._reason, reason
        if bool(before) == bool(reason):
            return
        if reason:
            log.error("%s; decisions go on and wait in memory to be recorded", reason)
        else:
            log.warning("journal %s: recording again, %d decisions were lost", self._store.where, self.dropped)
        if self._on_trouble is not None:
            try:
                self._on_trouble(self.trouble)
            except Exception:  # who listens must not end the record
                log.exception("journal: telling of trouble failed")
