"""A field that is added to the model's `Decision` is told everywhere, and no other file knows of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_one_line_in_the_model_is_told_everywhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.schema.longer", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "api": [7, None],
        "api document": [
            "integer",
            {
                "anyOf": [{"type": "number"}, {"type": "null"}],
                "description": "A share of something.",
                "title": "Share",
            },
        ],
        "client": [7, None],
        "what if": 0,
        "older server": 0,
        "lines": 7,
        "journal": 7,
        "explain": [7, ["example: stored 7, recomputed 0"]],  # the rule that decides again knows nothing of it
        "explain words": ["Example: 7.", "Share: unknown."],
        "export": [[7], [None]],
        "status": {"example": 7, "share": None},
        "definition": [
            {"type": "integer", "description": "Example.", "format": "int64"},
            {"type": "number", "description": "A share of something."},
        ],
        "page": [True, True],
    }
