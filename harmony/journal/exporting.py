"""The journal as Parquet files, for notebooks and warehouses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from forecasting.errors import DataError, UsageError
from harmony.journal.cells import checked, shortened
from harmony.journal.rows import SCORES
from harmony.journal.tables import DECIDED, DECISIONS
from harmony.model.decision import Candidates, Decision
from harmony.schema.exact import dumps, loads
from harmony.schema.fields import Field, Shape, columns_of, fields_of
from harmony.schema.surface import number

if TYPE_CHECKING:
    import polars as pl

    from harmony.journal.store import JournalStore

__all__ = ["export_to"]

Frame: TypeAlias = "Callable[[list[dict[str, Any]]], pl.DataFrame]"

ROWS = 50_000  # per file
PAGE = 1_000
CANDIDATES = tuple(column.name for column in columns_of(Candidates))
MORE = tuple(f for f in fields_of(Decision) if f.name not in DECIDED)  # they have no column in the journal


def export_to(folder: Path, store: JournalStore) -> list[Path]:
    """Write ``decisions-00000.parquet`` and so on, and ``audit-00000.parquet``, into ``folder``; returns their paths.

    One row per decision: its columns, `at` (UTC), the objective and scores as columns, candidates and forecast
    quantiles as lists. Files appear when they are complete. Rows that cannot be read are passed over, logged and
    counted (`JournalStore.unreadable`). Raises `UsageError` where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            *_files(folder, "decisions", store, _decisions(store), _decision_frame),
            *_files(folder, "audit", store, _audits(store), _audit_frame),
        ]
    except OSError as error:
        raise UsageError(f"export to {folder}: {error.strerror}; expected a folder that can be written") from error


def _files(folder: Path, name: str, store: JournalStore, rows: Iterable[dict[str, Any]], frame: Frame) -> list[Path]:
    written: list[Path] = []
    part: list[dict[str, Any]] = []

    def write() -> None:
        path = folder / f"{name}-{len(written):05d}.parquet"
        staged = path.with_suffix(".part")
        _framed(store, part, frame).write_parquet(staged)
        staged.replace(path)
        written.append(path)
        part.clear()

    for row in rows:
        part.append(row)
        if len(part) == ROWS:
            write()
    if part or not written:
        write()
    return written


def _framed(store: JournalStore, rows: list[dict[str, Any]], frame: Frame) -> pl.DataFrame:
    """The rows as a table; those that do not fit into it (numbers beyond 64 bits and the like) are passed over."""
    import polars as pl

    unfit = (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError)
    try:
        return frame(rows)
    except unfit:
        pass

    def fits(row: dict[str, Any]) -> dict[str, Any]:
        try:
            frame([row])
        except unfit as error:
            raise DataError(f"journal: {shortened(row['id'])} cannot be exported: {shortened(str(error))}") from error
        return row

    tried = (store.or_passed_over(row["id"], partial(fits, row)) for row in rows)
    return frame([row for row in tried if row is not None])


def _decisions(store: JournalStore) -> Iterable[dict[str, Any]]:
    last = ""
    while rows := store.between(last, limit=PAGE):
        tried = (store.or_passed_over(row["id"], partial(_decision, row)) for row in rows)
        yield from (row for row in tried if row is not None)
        last = rows[-1]["id"]


def _decision(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _columns(checked(DECISIONS, row))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"journal: decision {shortened(row['id'])} cannot be exported: {shortened(told)}") from error


def _columns(out: dict[str, Any]) -> dict[str, Any]:
    context, candidates = loads(out.pop("context")), out.pop("candidates")
    objective = context["objective"]
    columns = {} if candidates is None else loads(candidates)
    quantiles = loads(out.pop("quantiles"))
    out["epsilon"], out["measure"] = _numbers([objective["epsilon"]])[0], objective["measure"]
    out["min_replicas"], out["max_replicas"] = objective["min_replicas"], objective["max_replicas"]
    out["capacity_median"] = _numbers([context["capacity"]["median"]])[0]
    out |= {name: _numbers([context["scores"][name]])[0] for name in SCORES}
    out |= {f"candidate_{name}": _numbers(columns.get(name, [])) for name in CANDIDATES}
    out |= {f.name: _more(f, context.get("decision", {}).get(f.name)) for f in MORE}
    out["quantile_levels"] = [float(q) for q in quantiles]
    out["quantile_values"] = [_numbers(v) for v in quantiles.values()]
    return out


def _more(told: Field, value: Any) -> Any:  # noqa: ANN401
    """A field without a column; what is large as JSON."""
    if value is None:
        return None
    if told.shape is Shape.NUMBER:
        return number(float(value))
    return dumps(value) if told.is_large else value


def _audits(store: JournalStore) -> Iterable[dict[str, Any]]:
    before: str | None = None
    while entries := store.audits(before=before, limit=PAGE):
        for e in entries:
            yield {"id": int(e.id), "at_s": e.at_s, "actor": e.actor, "action": e.action, "detail": dumps(e.detail)}
        before = entries[-1].id


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [None if v is None else float(v) for v in values]


def _decision_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl
    from sqlalchemy import Double, Text

    gone = ("candidates", "quantiles", "context")
    schema: dict[str, Any] = {
        c.name: pl.Float64 if isinstance(c.type, Double) else pl.String if isinstance(c.type, Text) else pl.Int64
        for c in DECISIONS.columns
        if c.name not in gone
    }
    schema |= {"epsilon": pl.Float64, "measure": pl.String, "min_replicas": pl.Int64, "max_replicas": pl.Int64}
    schema |= {"capacity_median": pl.Float64} | dict.fromkeys(SCORES, pl.Float64)
    schema |= {f"candidate_{name}": pl.List(pl.Float64) for name in CANDIDATES}
    kinds = {Shape.NUMBER: pl.Float64, Shape.WHOLE: pl.Int64, Shape.FLAG: pl.Boolean}
    schema |= {f.name: kinds.get(f.shape, pl.String) for f in MORE}
    schema |= {"quantile_levels": pl.List(pl.Float64), "quantile_values": pl.List(pl.List(pl.Float64))}
    return _with_time(pl.DataFrame(rows, schema=schema, orient="row"))


def _audit_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl

    schema = {"id": pl.Int64, "at_s": pl.Float64, "actor": pl.String, "action": pl.String, "detail": pl.String}
    return _with_time(pl.DataFrame(rows, schema=schema, orient="row"))


def _with_time(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return frame.with_columns((pl.col("at_s") * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us", "UTC")).alias("at"))
