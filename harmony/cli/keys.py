"""`harmony keys`: make, list and revoke API keys in the journal itself (the first key cannot be made over the API)."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from harmony.cli.extras import needing

__all__ = ["keys_app"]

keys_app = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)
Journal = Annotated[
    str,
    typer.Option(
        "--journal", envvar="HARMONY_JOURNAL_URL", help="The journal that `harmony serve` uses (URL or file)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ACTOR = "command line"


@keys_app.command("create")
@needing("api")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, such as grafana.")],
    journal: Journal,
    role: Annotated[str, typer.Option(help="read, operate or admin.")] = "read",
    expires: Annotated[str | None, typer.Option(help="Valid for so long, such as 90d; without end by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once.

    Examples:
    `harmony keys create me --role admin --journal sqlite:///harmony.db`
    """
    from forecasting.errors import UsageError
    from harmony.api.keys import new_key
    from harmony.api.roles import Role
    from harmony.durations import parse_duration
    from harmony.journal import JournalStore
    from harmony.journal.stored import ApiKey

    granted = str(Role.named(role))
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UsageError(f"name {name!r}: expected 1 to 100 printable characters")
    fresh, now_s = new_key(), time.time()  # noqa: TID251 - the command line reads the clock
    expires_s = None if expires is None else now_s + parse_duration(expires)
    with JournalStore.open(journal) as store:
        store.audit(ACTOR, "keys.create", {"id": fresh.id, "name": name, "role": granted})
        store.add_key(ApiKey(fresh.id, name, granted, fresh.secret_hash, now_s, expires_s))
    if as_json:
        _print_json({"id": fresh.id, "name": name, "role": granted, "key": fresh.text})
        return
    print(fresh.text)


@keys_app.command("list")
@needing("api")
def show(journal: Journal, as_json: AsJson = False) -> None:
    """List the keys, without their secrets.

    Examples:
    `harmony keys list --journal sqlite:///harmony.db`
    """
    from harmony.journal import JournalStore
    from harmony.serving import utc

    with JournalStore.open(journal, read_only=True) as store:
        found = store.keys()
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "role": key.role,
            "created": utc(key.created_s),
            "expires": None if key.expires_s is None else utc(key.expires_s),
            "revoked": None if key.revoked_s is None else utc(key.revoked_s),
        }
        for key in found
    ]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        ends = f"revoked {row['revoked']}" if row["revoked"] else f"until {row['expires']}" if row["expires"] else ""
        print(f"{row['id']}  {row['role']:<8} {row['created']}  {row['name']}  {ends}".rstrip())
    if not rows:
        print("no keys; `harmony keys create NAME --role admin` makes one")


@keys_app.command("revoke")
@needing("api")
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")], journal: Journal) -> None:
    """End a key: at once in the journal, within seconds on running servers.

    Examples:
    `harmony keys revoke 0123456789ab --journal sqlite:///harmony.db`
    """
    from forecasting.errors import UsageError
    from harmony.journal import JournalStore

    with JournalStore.open(journal, read_only=True) as store:  # a mistyped journal is not made
        found = store.keys()
    if not any(key.id == key_id and key.revoked_s is None for key in found):
        raise UsageError(f"key {key_id!r}: there is none of that id, or it was revoked; `harmony keys list` has all")
    with JournalStore.open(journal) as store:
        store.audit(ACTOR, "keys.revoke", {"id": key_id})
        store.revoke_key(key_id)
    print(f"revoked {key_id}")


def _print_json(value: Any) -> None:  # noqa: ANN401
    print(json.dumps(value, sort_keys=True, indent=2, allow_nan=False))
