"""What is made once in a run of the tests, however many workers there are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all of its workers have."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gave, as JSON, in whichever worker asked first; the others wait for it."""
    path = shared_folder(factory) / f"{name}.json"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            made = json.dumps(make())
            path.write_text(made)
        return json.loads(path.read_text())
