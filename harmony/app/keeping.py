"""Keeping a journal beside a server: opening it, writing every turn into it, removing what is old."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harmony.app.sources import STOP_S

if TYPE_CHECKING:
    from harmony.app.sources import Source
    from harmony.journal import JournalStore

__all__ = ["opened", "recording", "retaining", "told"]

log = logging.getLogger(__name__)
RETAIN_S = 3600.0


@contextlib.contextmanager
def opened(url: str, *, temporary: bool) -> Iterator[tuple[JournalStore | None, str]]:
    """The journal at ``url`` and its address; without one, a ``temporary`` journal that ends with us, or none."""
    import tempfile

    from harmony.journal import JournalStore

    with contextlib.ExitStack() as stack:
        if not url and temporary:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="harmony-demo-"))
            url = f"sqlite:///{folder}/journal.db"
        yield (stack.enter_context(JournalStore.open(url)) if url else None), url


@contextlib.contextmanager
def recording(store: JournalStore | None, source: Source) -> Iterator[Callable[[], str]]:
    """Keep every turn that the hub is given; yields what tells of the journal's trouble ("" for none)."""
    from harmony.journal import JournalWriter

    if store is None or source.turns is None:
        yield lambda: source.trouble
        return
    writer = JournalWriter(store, told).follow(source.turns)
    try:
        yield lambda: writer.trouble
    finally:
        writer.close()


@contextlib.contextmanager
def retaining(
    store: JournalStore | None, source: Source, days: float | None, inputs_days: float | None
) -> Iterator[None]:
    """Remove what is older than ``days`` now and every hour, if anything is recorded here."""
    if store is None or days is None or source.turns is None:
        yield
        return
    ended = threading.Event()

    def run() -> None:
        from forecasting.errors import HarmonyError

        while True:
            try:
                gone = store.retain(days, inputs_days=inputs_days)
            except HarmonyError as error:
                log.warning("the journal could not be shortened: %s", error)
            else:
                log.info("the journal was shortened", extra={"decisions": gone.decisions, "inputs_of": gone.inputs})
            if ended.wait(RETAIN_S):
                return

    thread = threading.Thread(target=run, name="harmony-retention", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(STOP_S)


def told(trouble: str) -> None:
    """Log that the journal cannot be written, or ("") can again."""
    log.error("%s; the loop goes on", trouble) if trouble else log.warning("the journal works again")
