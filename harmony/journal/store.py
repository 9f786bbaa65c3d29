"""`JournalStore`: the append-only record of every decision, in SQLite or PostgreSQL, through the same statements."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    Select,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from forecasting.errors import DataError, what_is
from harmony.journal.cells import checked, json_object, shortened
from harmony.journal.connecting import connect, journal_url, shown
from harmony.journal.errors import JournalError, JournalUnavailable, translated
from harmony.journal.ids import first_id_at
from harmony.journal.info import read_info
from harmony.journal.inputs import decode_inputs
from harmony.journal.migrating import check_version, migrate
from harmony.journal.retention import Removed, remove_old
from harmony.journal.rows import POINT_COLUMNS, Encoded, encode, point_of, snapshot_of
from harmony.journal.stored import ApiKey, AuditEntry, Info, StoredDecision, StoredJob
from harmony.journal.tables import API_KEYS, AUDIT, DECISIONS, INPUTS, JOBS, SERVICES
from harmony.schema.exact import dumps
from harmony.serving.points import Point
from harmony.serving.snapshot import Snapshot

__all__ = ["JournalStore"]

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_ROWS = 1_000  # of one page
MOST_POINTS = 10_000  # of one course
MOST_NAMED = 10_000  # unreadable rows that are remembered, so that each is logged once
ENDED = ("done", "failed", "cancelled")  # states of a job that are its last
NOW_S = {  # the database's own clock, seconds since the epoch
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch FROM clock_timestamp())::double precision",
}


class _File(NamedTuple):
    """Device and number of a file, and its bytes."""

    place: tuple[int, int]
    size: int


class _Files(NamedTuple):
    """The file of a journal in SQLite, and its log of what is not yet in it."""

    file: _File | None = None
    log: _File | None = None


class JournalStore:
    """One journal; safe to use from several threads, and by several processes at once.

    All methods raise `JournalUnavailable` while the database cannot be read or written (full or read-only disk, lost
    server) and work again when it can.
    """

    def __init__(self, engine: Engine, where: str, *, whole_forecasts: bool, file: Path | None = None) -> None:
        self.where = where
        self._file = file  # of SQLite, where it is written
        self._opened = _Files()  # that file, and its log, as they were when they were last looked at
        self._engine = engine
        self._whole_forecasts = whole_forecasts
        self._dialect = engine.dialect.name
        self._upsert: Any = postgresql.insert if self._dialect == "postgresql" else sqlite.insert
        self._writing = threading.Lock()
        self._unreadable: set[object] = set()

    @classmethod
    def open(cls, url: str, *, whole_forecasts: bool | None = None, read_only: bool = False) -> Self:
        """Open (and create, or bring to the newest version) the journal at ``url``.

        ``url`` is ``sqlite:///FILE``, ``postgresql://USER:PASSWORD@HOST/DATABASE`` or a file's path.
        ``whole_forecasts`` keeps the newest forecast of every service with all its indicators, for readers that have
        no loop (see `latest`); by default where there can be such readers: on PostgreSQL. ``read_only`` changes
        nothing, not even the version.

        Raises `UsageError` for an address that is none, `JournalVersionError` for a newer version or a database of
        something else, `JournalUnavailable` where it cannot be opened.
        """
        address = journal_url(url)
        where = shown(address)
        is_file = address.get_backend_name() == "sqlite"
        if is_file and read_only and not Path(str(address.database)).is_file():
            kind = what_is(Path(str(address.database)))
            found = f"that is {kind}; expected the file of a journal" if kind else "there is no such file"
            raise JournalError(f"journal {where}: {found}")
        engine = connect(address, read_only=read_only)
        store = cls(
            engine,
            where,
            whole_forecasts=not is_file if whole_forecasts is None else whole_forecasts,
            file=Path(str(address.database)).absolute() if is_file and not read_only else None,
        )
        try:
            if read_only:
                with store._reading() as connection:
                    check_version(connection, where)
            else:
                store._begin_anew()
        except BaseException:
            engine.dispose()
            raise
        return store

    # ---- decisions ------------------------------------------------------------------------------------------
    def append(self, snapshots: Sequence[Snapshot]) -> list[str]:
        """Keep these turns, all of them or none; returns their ids, in order.

        The same service and time again is the same decision: what was stored first stays. When this returns the turns
        outlive the end of the process. Raises `DataError` (and keeps none) for a snapshot that cannot be kept.
        """
        return self.write([self.encode(snapshot) for snapshot in snapshots])

    def encode(self, snapshot: Snapshot) -> Encoded:
        """The rows of a snapshot, for `write`; `DataError` for one that cannot be kept."""
        return encode(snapshot, whole_forecast=self._whole_forecasts)

    def write(self, rows: Sequence[Encoded]) -> list[str]:
        """As `append`, of what is encoded already."""
        if not rows:
            return []
        newest: dict[str, dict[str, Any]] = {}
        for row in rows:
            before = newest.get(row.service["service"])
            if before is None or before["at_s"] <= row.service["at_s"]:
                newest[row.service["service"]] = row.service
        upsert = self._upsert(SERVICES)
        upsert = upsert.on_conflict_do_update(
            index_elements=["service"],
            set_={name: upsert.excluded[name] for name in ("at_s", "decision_id", "summary", "series")},
            where=SERVICES.c.at_s <= upsert.excluded.at_s,
        )
        # In one order everywhere, so that two writers cannot wait for each other.
        services = [newest[name] for name in sorted(newest)]
        with self._write() as connection:
            connection.execute(self._upsert(DECISIONS).on_conflict_do_nothing(), [r.decision for r in rows])
            connection.execute(self._upsert(INPUTS).on_conflict_do_nothing(), [r.inputs for r in rows])
            connection.execute(upsert, services)
        return [row.decision["id"] for row in rows]

    def decisions(
        self, service: str | None = None, *, before: str | None = None, limit: int = 50
    ) -> list[StoredDecision]:
        """Decisions of one service, or of all: newest first, at most 1000, older than the id ``before``.

        Rows that cannot be read are passed over (see `unreadable`), here and by `latest`.
        """
        query = select(DECISIONS).order_by(DECISIONS.c.id.desc())
        if service is not None:
            query = query.where(DECISIONS.c.service == service)
        found: list[StoredDecision] = []
        wanted = _page(limit)
        while len(found) < wanted:
            asked = wanted - len(found)
            older = query if before is None else query.where(DECISIONS.c.id < before)
            rows = self._all(older.limit(asked))
            read = ((row["id"], self.or_passed_over(row["id"], partial(snapshot_of, row))) for row in rows)
            found += [StoredDecision(row_id, snapshot) for row_id, snapshot in read if snapshot is not None]
            if len(rows) < asked:
                break
            before = rows[-1]["id"]
        return found

    def decision(self, decision_id: str) -> StoredDecision | None:
        """One decision with its inputs, where these are still kept; None when there is none of that id.

        Raises `DataError` where it cannot be read.
        """
        query = select(DECISIONS, INPUTS.c.blob).outerjoin(INPUTS, INPUTS.c.decision_id == DECISIONS.c.id)
        rows = self._all(query.where(DECISIONS.c.id == decision_id))
        if not rows:
            return None
        row = rows[0]
        blob = row["blob"]
        snapshot = snapshot_of(row, blob)
        return StoredDecision(row["id"], snapshot, blob is not None, blob is not None and decode_inputs(blob).rounded)

    def points(self, service: str, first_s: float, last_s: float, every_s: float = 0.0) -> list[Point]:
        """The turns of a service from ``first_s`` until before ``last_s``, oldest first, at most 10,000 (the newest).

        With ``every_s`` one turn of every so many seconds: that in which demand was highest for the replicas that were
        ready, so that what was scarce stays in sight. Rows that cannot be read are passed over.
        """
        columns = [DECISIONS.c[name] for name in POINT_COLUMNS]
        mine = (DECISIONS.c.service == service) & (DECISIONS.c.id >= first_id_at(max(0.0, first_s)))
        mine &= DECISIONS.c.id < first_id_at(max(0.0, last_s))
        query = select(*columns).where(mine)
        if every_s > 0.0:
            slot = DECISIONS.c.at_s / every_s
            whole = cast(slot, Integer) if self._dialect == "sqlite" else func.floor(slot)
            strain = DECISIONS.c.demand / case((DECISIONS.c.ready > 0, DECISIONS.c.ready), else_=0.5)
            order = (strain.desc().nulls_last(), DECISIONS.c.id.desc())
            place = func.row_number().over(partition_by=whole, order_by=order).label("place")
            ranked = select(DECISIONS.c.id, place).where(mine).subquery()
            query = query.join(ranked, ranked.c.id == DECISIONS.c.id).where(ranked.c.place == 1)
        rows = self._all(query.order_by(DECISIONS.c.id.desc()).limit(MOST_POINTS))
        read = (self.or_passed_over(row["id"], partial(point_of, row)) for row in reversed(rows))
        return [point for point in read if point is not None]

    def between(
        self, after: str = "", before_s: float | None = None, limit: int = MOST_ROWS
    ) -> list[Mapping[str, Any]]:
        """Rows of `decisions`, oldest first, with ids beyond ``after`` and times before ``before_s``; for exports."""
        query = select(DECISIONS).where(DECISIONS.c.id > after).order_by(DECISIONS.c.id)
        if before_s is not None:
            query = query.where(DECISIONS.c.id < first_id_at(before_s))
        return self._all(query.limit(limit))

    def latest(self, since_s: float = 0.0) -> list[Snapshot]:
        """The newest snapshot of every service whose newest decision is later than ``since_s``, ordered by name.

        For readers without a loop. Writers' clocks differ a little: ask from some seconds before the newest time that
        you know, and pass over what you have.
        """
        query = (
            select(DECISIONS, INPUTS.c.blob, SERVICES.c.summary, SERVICES.c.series)
            .select_from(SERVICES)
            .join(DECISIONS, DECISIONS.c.id == SERVICES.c.decision_id)
            .outerjoin(INPUTS, INPUTS.c.decision_id == DECISIONS.c.id)
            .where(SERVICES.c.at_s > since_s)
            .order_by(SERVICES.c.service)
        )
        rows = self._all(query)
        read = (
            self.or_passed_over(row["id"], partial(snapshot_of, row, row["blob"], row["summary"], row["series"]))
            for row in rows
        )
        return [snapshot for snapshot in read if snapshot is not None]

    @property
    def unreadable(self) -> int:
        """Rows that were passed over so far: damaged, or with what only a newer version knows; each is logged."""
        return len(self._unreadable)

    def or_passed_over(self, name: object, read: Callable[[], T]) -> T | None:
        """What ``read`` makes of the row ``name``; None for one that it cannot read (`DataError`): counted, logged."""
        try:
            return read()
        except DataError as error:
            if name not in self._unreadable:
                if len(self._unreadable) < MOST_NAMED:
                    self._unreadable.add(name)
                log.error("%s; it is passed over (%d so far)", error, len(self._unreadable))
            return None

    # ---- audit ----------------------------------------------------------------------------------------------
    def audit(self, actor: str, action: str, detail: Mapping[str, Any] | None = None) -> str:
        """Write down that ``actor`` did ``action``, at the database's time; returns the entry's id."""
        values = {"actor": actor, "action": action, "detail": dumps(dict(detail or {}))}
        with self._write() as connection:
            made = connection.execute(insert(AUDIT).values(at_s=self._now, **values))
            key = made.inserted_primary_key
        return str(key[0]) if key is not None else ""

    def audits(
        self, *, before: str | None = None, limit: int = 50, actor: str | None = None, action: str | None = None
    ) -> list[AuditEntry]:
        """Newest first, older than the id ``before``; of one ``actor``, of one ``action`` if given."""
        query = select(AUDIT).order_by(AUDIT.c.id.desc())
        if before is not None:
            if not (before.isascii() and before.isdigit() and len(before) < 19):
                return []
            query = query.where(AUDIT.c.id < int(before))
        if actor is not None:
            query = query.where(AUDIT.c.actor == actor)
        if action is not None:
            query = query.where(AUDIT.c.action == action)
        return self._listed("audit entry", query.limit(_page(limit)), _audit)

    # ---- keys -----------------------------------------------------------------------------------------------
    def add_key(self, key: ApiKey) -> None:
        """Keep a new key (its hash); `JournalError` where there is one of that id."""
        values = {column.name: getattr(key, column.name) for column in API_KEYS.columns}
        with self._write() as connection:
            connection.execute(insert(API_KEYS), [values])

    def keys(self) -> list[ApiKey]:
        """All keys, oldest first, revoked ones too."""
        return self._listed("key", select(API_KEYS).order_by(API_KEYS.c.created_s, API_KEYS.c.id), _key)

    def revoke_key(self, key_id: str) -> bool:
        """Revoke at the database's time; False when there is none of that id, or it was revoked before."""
        mine = (API_KEYS.c.id == key_id) & API_KEYS.c.revoked_s.is_(None)
        with self._write() as connection:
            return connection.execute(update(API_KEYS).where(mine).values(revoked_s=self._now)).rowcount == 1

    # ---- jobs -----------------------------------------------------------------------------------------------
    def put_job(self, job: StoredJob) -> None:
        """Keep a job, or its newer state; one that is done, failed or cancelled stays as it is."""
        values = {column.name: getattr(job, column.name) for column in JOBS.columns}
        for name in ("request", "progress", "result"):
            values[name] = None if values[name] is None else dumps(dict(values[name]))
        statement = self._upsert(JOBS)
        changed = {name: statement.excluded[name] for name in ("state", "updated_s", "progress", "result", "error")}
        still = JOBS.c.state.not_in(ENDED)
        with self._write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["id"], set_=changed, where=still), [values]
            )

    def job(self, job_id: str) -> StoredJob | None:
        """The job of that id; `DataError` where it cannot be read."""
        rows = self._all(select(JOBS).where(JOBS.c.id == job_id))
        return _named("job", rows[0], _job) if rows else None

    def jobs(self, *, kind: str | None = None, limit: int = 50) -> list[StoredJob]:
        """Newest first."""
        query = select(JOBS).order_by(JOBS.c.created_s.desc(), JOBS.c.id)
        if kind is not None:
            query = query.where(JOBS.c.kind == kind)
        return self._listed("job", query.limit(_page(limit)), _job)

    def remove_job(self, job_id: str) -> bool:
        """Forget a job; False when there is none of that id."""
        with self._write() as connection:
            return connection.execute(delete(JOBS).where(JOBS.c.id == job_id)).rowcount == 1

    # ---- upkeep ---------------------------------------------------------------------------------------------
    def retain(self, days: float, *, inputs_days: float | None = None, audit_days: float | None = None) -> Removed:
        """Remove decisions older than ``days``, and inputs older than ``inputs_days`` (by default with their decision).

        Ages count back from the newest decision, or from the database's clock if that is earlier: neither a journal
        of simulated time nor one decision from the future empties it. The audit is kept unless ``audit_days`` is given.
        Removes in portions, so that writers wait for none of them long. Raises `UsageError` for ages that are none.
        """
        return remove_old(self._write, self._now, days, inputs_days, audit_days)

    def info(self) -> Info:
        """Rows, bytes, oldest and newest."""
        with self._reading() as connection:
            return read_info(connection, self.where)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the database ---------------------------------------------------------------------------------------
    @property
    def _now(self) -> Any:  # noqa: ANN401
        return literal_column(NOW_S[self._dialect])

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A writing transaction: all of it, or nothing."""
        with translated(self.where), self._writing:
            if said := self._was_replaced():
                self._engine.dispose()  # whoever still reads the old file ends with it; SQLite saves what its log held
                self._begin_anew()
                log.error("journal %s: %s", self.where, said)
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=True)
                with connection.begin():
                    yield connection
            if self._was_replaced():  # what was just written went with it; whoever asked may write it again
                raise JournalUnavailable(f"journal {self.where}: its file was removed or replaced while it was written")
            self._opened = self._files()

    def _begin_anew(self) -> None:
        """Bring the database to the newest version, and remember which file it is in."""
        with translated(self.where), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True, migrates=True)
            with connection.begin():
                migrate(connection, self.where)
        self._opened = self._files()

    def _files(self) -> _Files:
        """The file and its log as they are now; nothing where the journal is no file, or is only read."""
        return _Files() if self._file is None else _Files(_look(self._file), _look(Path(f"{self._file}-wal")))

    def _was_replaced(self) -> str:
        """That another file, or none, stands where this journal's was: SQLite itself does not notice; "" for no.

        While a connection is open, neither the file nor its log becomes shorter or another one by itself.
        """
        before, now = self._opened, self._files()
        if before.file is not None and (now.file is None or now.file.place != before.file.place):
            return "its file was removed or replaced; a new one begins"
        if _is_shorter(now.file, before.file):
            return "its file was cut or written over by somebody else; it was opened anew"
        if before.log is not None and (now.log is None or now.log.place != before.log.place):
            return "its log (-wal) was removed or replaced; it was opened anew"
        if _is_shorter(now.log, before.log):
            return "its log (-wal) was cut by somebody else, and what it held may be lost; it was opened anew"
        return ""

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the journal."""
        with translated(self.where), self._engine.connect() as connection:
            if self._dialect == "postgresql":  # by default each statement there sees a moment of its own
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    def _listed(self, what: str, query: Select[Any], read: Callable[[Mapping[str, Any]], T]) -> list[T]:
        """All rows as ``read`` makes them, but those that it cannot read."""
        found = (self.or_passed_over((what, row["id"]), partial(_named, what, row, read)) for row in self._all(query))
        return [one for one in found if one is not None]

    def _all(self, query: Select[Any]) -> list[Mapping[str, Any]]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _look(path: Path) -> _File | None:
    """The file at this path; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _File((found.st_dev, found.st_ino), found.st_size)


def _is_shorter(now: _File | None, before: _File | None) -> bool:
    return now is not None and before is not None and now.size < before.size


def _page(limit: int) -> int:
    return max(1, min(limit, MOST_ROWS))


def _named(what: str, row: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    """The row read; `DataError` says which it is where it cannot be."""
    try:
        return read(row)
    except DataError as error:
        raise DataError(f"journal: {what} {shortened(row['id'])} cannot be read: {error}") from error


def _audit(row: Mapping[str, Any]) -> AuditEntry:
    cells = checked(AUDIT, row)
    detail = json_object(cells["detail"], "detail")
    return AuditEntry(str(cells["id"]), cells["at_s"], cells["actor"], cells["action"], detail)


def _key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(**checked(API_KEYS, row))


def _job(row: Mapping[str, Any]) -> StoredJob:
    values = checked(JOBS, row)
    for name in ("request", "progress", "result"):
        values[name] = None if values[name] is None else json_object(values[name], name)
    return StoredJob(**values)
