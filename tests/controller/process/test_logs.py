"""Log lines: machine-readable, complete, and without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.process.logs import JsonFormatter, TextFormatter, bound, configure, redact
from forecasting.errors import UsageError

logger = logging.getLogger("controller.test")


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    packages = [logging.getLogger(n) for n in ("harmony", "controller", "forecasting", "kernels")]
    handlers, levels = root.handlers[:], [x.level for x in (root, *packages)]
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for one, level in zip((root, *packages), levels, strict=True):
        one.setLevel(level)


def lines(log_format: str = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(log_format, level, stream)
    return stream


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_message_and_fields() -> None:
    stream = lines()
    logger.info("ordered %d replicas", 5, extra={"service": "serving/chat", "tick": 7, "reason": "Forecast"})
    (line,) = parsed(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "controller.test",
        "message": "ordered 5 replicas",
        "service": "serving/chat",
        "tick": 7,
        "reason": "Forecast",
    }


def test_text_is_one_readable_line() -> None:
    stream = lines("text")
    logger.warning("data is\nabsent", extra={"service": "serving/chat", "why": "no series", "ages": [1.5, None]})
    (line,) = stream.getvalue().splitlines()
    end = 'WARNING controller.test: data is\\nabsent service=serving/chat why="no series" ages=[1.5, null]'
    assert line.endswith(end)


def test_bound_fields_follow_what_is_awaited_and_end_with_the_block() -> None:
    stream = lines()

    async def one(name: str) -> None:
        with bound(service=name):
            await asyncio.sleep(0.001)
            logger.info("read", extra={"stage": "read"})

    async def main() -> None:
        with bound(tick=3):
            await asyncio.gather(one("a"), one("b"))
        logger.info("idle")

    asyncio.run(main())
    first, second, last = parsed(stream)
    assert {first["service"], second["service"]} == {"a", "b"}
    assert first["tick"] == second["tick"] == 3
    assert first["stage"] == "read"
    assert "tick" not in last
    assert "service" not in last


def test_a_traceback_is_kept_in_one_json_line() -> None:
    stream = lines()
    try:
        raise ValueError("token=abcdefghij is wrong")
    except ValueError:
        logger.exception("tick failed")
    (line,) = parsed(stream)
    assert (line["level"], line["error"]) == ("error", "ValueError")
    assert "test_logs.py" in line["traceback"]
    assert "abcdefghij" not in stream.getvalue()


def test_values_that_json_does_not_have() -> None:
    stream = lines()
    deep: list[Any] = []
    deep.append(deep)
    values = {"a": float("nan"), "b": float("inf"), "c": np.int64(3), "d": {"e": {1, 2}}, "f": deep, "g": object}
    logger.info("odd", extra=values)
    (line,) = parsed(stream)
    assert line["a"] is None
    assert line["b"] is None
    assert line["c"] == "3"
    assert sorted(line["d"]["e"]) == [1, 2]


def test_level_holds_for_us_and_libraries_speak_from_warning_on() -> None:
    stream = lines(level="error")
    logger.warning("quiet")
    logging.getLogger("aiohttp.server").info("quiet")
    logging.getLogger("aiohttp.server").warning("loud")
    assert [x["message"] for x in parsed(stream)] == ["loud"]
    stream = lines(level="debug")
    logging.getLogger("aiohttp.server").debug("now loud")
    assert [x["message"] for x in parsed(stream)] == ["now loud"]


def test_warnings_of_python_are_log_lines() -> None:
    stream = lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old spelling", stacklevel=1)
        logging.captureWarnings(False)
    assert any("old spelling" in x["message"] for x in parsed(stream))


def test_configuring_twice_does_not_double_lines() -> None:
    lines()
    stream = lines()
    logger.info("once")
    assert len(parsed(stream)) == 1


@pytest.mark.parametrize(("log_format", "level"), [("yaml", "info"), ("json", "loud")])
def test_other_formats_and_levels_are_refused(log_format: str, level: str) -> None:
    with pytest.raises(UsageError, match="known: "):
        configure(log_format, level)


JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl"
LEAKS = [
    (f"Authorization: Bearer {JWT}", JWT),
    ("headers={'Authorization': 'Bearer s3cr3t-t0ken'}", "s3cr3t-t0ken"),
    ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    (f"sent {JWT} to the server", JWT),
    ("GET https://user:hunter2@prometheus:9090/api failed", "hunter2"),
    ("GET http://p/api?query=up&token=s3cr3t&x=1", "s3cr3t"),
    ('{"password": "hunter2", "name": "x"}', "hunter2"),
    ("client_secret=hunter2", "hunter2"),
    ("API-Key: hunter2", "hunter2"),
    ("x -----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY----- y", "MHcCAQ"),
]


@pytest.mark.parametrize(("text", "secret"), LEAKS)
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_are_not_logged(text: str, secret: str, log_format: str) -> None:
    stream = lines(log_format)
    logger.info(text)
    logger.info("failed: %s", text)
    logger.info("failed", extra={"why": text, "headers": {"x": [text]}, "token": secret})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("failed")
    with bound(answer=text):
        logger.info("bound")
    assert secret not in stream.getvalue()
    assert "[hidden]" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "read token file /var/run/secrets/token",
        "prometheus_token_file=/etc/prometheus/token_file",
        "the bearer of news",
        "6 tokens per second",
        "https://prometheus:9090/api/v1/query",
        "serving/chat: 5 -> 6 replicas (Forecast)",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_marks_of_libraries_on_a_record_are_no_fields() -> None:
    """Importing Ray, for one, makes every record of the process carry `_ray_timestamp_ns`; here it may have been."""
    stream = lines()
    logger.info("ordered", extra={"_mark_of_a_library": 1, "tick": 7})
    (line,) = parsed(stream)
    assert line.keys() == {"time", "level", "logger", "message", "tick"}


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(max_size=60), st.dictionaries(st.text(min_size=1, max_size=8), st.floats() | st.text(max_size=8)))
def test_any_record_is_one_line(message: str, more: dict[str, Any]) -> None:
    record = logging.LogRecord("controller", logging.INFO, "x.py", 1, "%s", (message,), None)
    record.__dict__.update({f"x{k}": v for k, v in more.items()})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["level"] == "info"
    assert "\n" not in TextFormatter().format(record)
