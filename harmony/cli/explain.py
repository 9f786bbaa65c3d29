"""`harmony explain` and `harmony journal`: reading and keeping the record of decisions."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from harmony.cli.extras import needing
from harmony.cli.remote import URL, Key, Url

__all__ = ["explain", "journal_app"]

journal_app = typer.Typer(
    name="journal", help="Look into the journal, export it, remove what is old.", no_args_is_help=True
)
Journal = Annotated[
    str,
    typer.Option(
        "--journal", envvar="HARMONY_JOURNAL_URL", help="The journal that `harmony serve` uses (URL or file)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@needing("api")
def explain(
    decision: Annotated[str, typer.Argument(help="Id of a decision, or NAMESPACE/NAME for a service's newest one.")],
    journal: Annotated[
        str,
        typer.Option(
            "--journal", envvar="HARMONY_JOURNAL_URL", help="The journal (URL or file); without it a server is asked."
        ),
    ] = "",
    url: Url = URL,
    key: Key = "",
    as_json: AsJson = False,
) -> int:
    """Why a count is what it is; decides again from the journal and exits with 1 if that comes out differently.

    Examples:
    `harmony explain serving/chat`

    `harmony explain 0647a2d01f4af4-d4ad58c56b9b0348 --journal sqlite:///harmony.db`

    `harmony explain serving/chat --journal sqlite:///harmony.db --json`
    """
    told = _from_journal(decision, journal) if journal else _from_server(decision, url, key)
    if as_json:
        _print_json(told)
    else:
        print("\n".join(told["text"]))
    return 1 if told["same"] is False else 0


def _from_journal(decision: str, journal: str) -> dict[str, Any]:
    """The explanation, made here."""
    from forecasting.errors import UsageError
    from harmony.journal import JournalStore
    from harmony.journal import explain as explain_stored

    with JournalStore.open(journal, read_only=True) as store:
        found = decision
        if "/" in decision:
            newest = store.decisions(decision, limit=1)
            if not newest:
                raise UsageError(
                    f"the journal has no decision about {decision}; expected NAMESPACE/NAME of a service in it"
                )
            found = newest[0].id
        told = explain_stored(store, found)
    if told is None:
        raise UsageError(f"the journal has no decision {decision!r}; harmony journal info says what it spans")
    return told.to_json()


def _from_server(decision: str, url: str, key: str) -> dict[str, Any]:
    """The explanation of a running server, from its journal."""
    from forecasting.errors import UsageError
    from harmony.client import Client

    with Client(url, key) as client:
        found: str | None = decision
        if "/" in decision:
            newest = next(client.decisions(decision, 1), None)
            found = None if newest is None else newest.id
        if found is None:
            raise UsageError(f"the journal of {url} has no decision about {decision} yet")
        return client.explanation(found).model_dump()


@journal_app.command("info")
@needing("api")
def info(journal: Journal, as_json: AsJson = False) -> None:
    """Say how much is in the journal and which time it spans.

    Examples:
    `harmony journal info --journal sqlite:///harmony.db`
    """
    from harmony.journal import JournalStore

    with JournalStore.open(journal, read_only=True) as store:
        found = store.info()
    if as_json:
        _print_json(
            {
                "journal": found.where,
                "version": found.version,
                "rows": found.rows,
                "bytes": found.bytes,
                "oldest": _utc(found.oldest_s),
                "newest": _utc(found.newest_s),
            }
        )
        return
    print(f"{found.where}   version {found.version}   {found.bytes / 1e6:,.1f} MB")
    print(f"decisions from {_utc(found.oldest_s) or 'none'} to {_utc(found.newest_s) or 'none'}")
    for name, count in found.rows.items():
        print(f"  {name:<10} {count:>12,}")


@journal_app.command("export")
@needing("api")
def export(
    folder: Annotated[Path, typer.Argument(help="Folder for the Parquet files; made if it is not there.")],
    journal: Journal,
) -> None:
    """Write decisions and audit as Parquet files.

    Examples:
    `harmony journal export out/journal --journal sqlite:///harmony.db`
    """
    from harmony.journal import JournalStore, export_to

    with JournalStore.open(journal, read_only=True) as store:
        for path in export_to(folder, store):
            print(path)
        if store.unreadable:
            print(f"passed over {store.unreadable} rows that cannot be read; the log names them", file=sys.stderr)


@journal_app.command("retain")
@needing("api")
def retain(
    journal: Journal,
    days: Annotated[float, typer.Option(help="Remove decisions older than so many days.")],
    inputs_days: Annotated[
        float | None,
        typer.Option(help="Remove what decisions can be recomputed from earlier than the decisions themselves."),
    ] = None,
    audit_days: Annotated[
        float | None, typer.Option(help="Remove audit entries too; kept for ever by default.")
    ] = None,
) -> None:
    """Remove what is old; ages count back from the newest decision.

    Examples:
    `harmony journal retain --days 90 --inputs-days 7 --journal sqlite:///harmony.db`
    """
    from harmony.journal import JournalStore

    JournalStore.open(journal, read_only=True).close()  # a mistyped journal is not made
    with JournalStore.open(journal) as store:
        gone = store.retain(days, inputs_days=inputs_days, audit_days=audit_days)
    print(
        f"removed {gone.decisions:,} decisions, inputs of {gone.inputs:,}, {gone.services:,} services, "
        f"{gone.audit:,} audit entries"
    )


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_json(value: Any) -> None:  # noqa: ANN401
    print(json.dumps(value, indent=2, allow_nan=False))
