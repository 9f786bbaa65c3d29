"""`harmony keys` and `harmony journal`, in a journal that is there and in one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmony.cli.main import run


def test_a_key_from_made_to_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = f"sqlite:///{tmp_path / 'j.db'}"
    assert run(["keys", "create", "grafana", "--journal", journal, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["keys", "list", "--journal", journal, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["id"], listed["role"], listed["revoked"]) == (made["id"], "read", None)
    assert made["key"] not in json.dumps(listed)
    assert run(["keys", "revoke", made["id"], "--journal", journal]) == 0
    assert run(["keys", "revoke", made["id"], "--journal", journal]) == 2
    capsys.readouterr()
    assert run(["keys", "list", "--journal", journal, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["revoked"] is not None


@pytest.mark.parametrize(
    "command", [["keys", "list"], ["keys", "revoke", "0123456789ab"], ["journal", "retain", "--days", "9"]]
)
def test_a_mistyped_journal_is_said_and_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "typo.db"
    assert run([*command, "--journal", f"sqlite:///{path}"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not path.exists()
