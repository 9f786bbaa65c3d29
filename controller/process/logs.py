"""Logs: one JSON object per line for machines, or readable text; never a secret."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

from forecasting.errors import UsageError, suggest

__all__ = ["JsonFormatter", "TextFormatter", "bound", "configure", "redact"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
HIDDEN = "[hidden]"
DEPTH = 6  # nested values below this are written as text

# What a record has of its own; everything else on it came as `extra`.
OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

SECRET_NAME = r"[\w-]{0,32}(?:token|password|passwd|secret|api[_-]?key|private[_-]?key)"
SECRETS = (
    # schemes of the Authorization header, wherever they stand
    (re.compile(r"\b(bearer|basic)(\s+|\s*%20)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # tokens that are signed JSON, such as service account tokens
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"), HIDDEN),
    # user and password in an address
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # token=..., "password": "...", api-key: ...
    (re.compile(rf"({SECRET_NAME}['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;)}}\]]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)
SECRET_FIELD = re.compile(rf"^(?:authorization|{SECRET_NAME})$", re.IGNORECASE)

_BOUND: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))


def redact(text: str) -> str:
    """The text without bearer tokens, passwords, keys and credentials in addresses."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


@contextlib.contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Put fields such as ``service`` and ``tick`` on every line logged inside, also by what is awaited there."""
    token = _BOUND.set({**_BOUND.get(), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then what was bound or given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; every value is redacted, and numbers that JSON does not have become null."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, HIDDEN if SECRET_FIELD.match(name) else _plain(value, DEPTH))
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = redact("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, ``name=value`` pairs; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line (and a traceback); line breaks in messages and values are escaped, so nobody can forge a line."""
        pairs = [
            f"{_word(name)}={HIDDEN if SECRET_FIELD.match(name) else _word(_plain(value, DEPTH))}"
            for name, value in _fields(record).items()
        ]
        message = redact(record.getMessage()).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        line = " ".join([f"{_time(record)} {record.levelname:<7} {record.name}: {message}", *pairs])
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return line


def configure(log_format: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Log everything of this process to ``stream`` (standard error) in one format, replacing earlier handlers.

    UsageError for a format or level that does not exist. Libraries speak from warning on, unless level is debug.
    """
    formatters: dict[str, type[logging.Formatter]] = {"json": JsonFormatter, "text": TextFormatter}
    if log_format not in formatters:
        raise UsageError(f"log format {log_format!r}: {suggest(log_format, formatters)}")
    if level not in LEVELS:
        raise UsageError(f"log level {level!r}: {suggest(level, LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatters[log_format]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    for package in ("harmony", "controller", "forecasting", "kernels"):
        logging.getLogger(package).setLevel(LEVELS[level])
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    """UTC with milliseconds, as RFC 3339 writes it."""
    return datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What is bound, overridden by what came with the record; not what libraries keep on records for themselves."""
    return {**_BOUND.get(), **{k: v for k, v in vars(record).items() if k not in OWN and not k.startswith("_")}}


Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


def _plain(value: object, depth: int) -> Plain:
    """A value as JSON has it, redacted; NaN and infinities are absent."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 0 and isinstance(value, Mapping):
        return {str(k): HIDDEN if SECRET_FIELD.match(str(k)) else _plain(v, depth - 1) for k, v in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, depth - 1) for v in value]
    return redact(str(value))


def _word(value: Plain) -> str:
    """A value for a ``name=value`` pair: quoted where it has spaces or is not plain text."""
    if isinstance(value, str) and value and not re.search(r"[\s\"=\\]", value):
        return value
    return json.dumps(value, ensure_ascii=False)
