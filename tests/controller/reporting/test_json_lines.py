"""The journal: whole lines of JSON, and a disk that fails does not stop scaling."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from controller.reporting.json_lines import JsonLines
from forecasting.errors import UsageError
from harmony.model.record import Record


class Turn:
    """What the journal asks of a record."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def to_json(self) -> dict[str, Any]:
        return self.fields


def record(**fields: Any) -> Record:
    return cast("Record", Turn(**fields))


def test_each_turn_is_one_line_with_its_service(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    lines = JsonLines(str(path))
    lines.of("a").append(record(replicas=3, text="one\ntwo"))
    lines.of("b").append(record(replicas=None))
    read = [json.loads(line) for line in path.read_text().splitlines()]  # before it is closed: nothing is held back
    lines.close()
    assert read == [{"service": "a", "replicas": 3, "text": "one\ntwo"}, {"service": "b", "replicas": None}]


def test_a_restart_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    for n in range(3):
        lines = JsonLines(str(path))
        lines.of("a").append(record(n=n))
        lines.close()
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_a_folder_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--journal .*No such file"):
        JsonLines(str(tmp_path / "none" / "turns.jsonl"))


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="/dev/full is a Linux device")
def test_a_full_disk_is_reported_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    lines = JsonLines("/dev/full")
    for n in range(5):
        lines.of("a").append(record(n=n))
    assert lines.failures == 5
    told = [r for r in caplog.records if r.levelname == "ERROR"]
    assert len(told) == 1
    assert "No space left" in told[0].getMessage()
    lines.close()  # raises nothing either
