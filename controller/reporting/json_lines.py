"""`JsonLines`: every turn as one line of JSON in a file; whole lines or nothing, and never in the loop's way."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from forecasting.errors import UsageError
from harmony.loop.ports import RecordSink
from harmony.model.record import Record

__all__ = ["JsonLines"]

log = logging.getLogger(__name__)


class JsonLines:
    """Appends records to a file. `of` gives one service's journal.

    A disk that is full or gone is reported once and does not stop scaling; writing is tried again with each record.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.failures = 0
        try:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UsageError(f"--journal {path}: {error.strerror}; expected a file in a folder that exists") from None

    def of(self, service: str) -> RecordSink:
        """The journal of one service."""
        return _Named(self, service)

    def write(self, service: str, record: Record) -> None:
        """Append one turn."""
        line = json.dumps({"service": service, **record.to_json()}, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            self._file.write(line)
        except OSError as error:
            self.failures += 1
            if self.failures == 1:
                log.error("journal %s: %s; the loop goes on without it", self._path, error)

    def close(self) -> None:
        """Finish the file; what a full disk does not take is lost, as it was before."""
        try:
            self._file.close()
        except OSError as error:
            log.error("journal %s: %s; its end is missing", self._path, error)


class _Named:
    """One service's lines."""

    def __init__(self, lines: JsonLines, service: str) -> None:
        self._lines, self._service = lines, service

    def append(self, record: Record) -> None:
        self._lines.write(self._service, record)
