"""Rows of a study in a file of JSON lines: appended as they are measured, and found again by their settings."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kernels.errors import KernelError

__all__ = ["RowFile", "machine"]


def machine(device: str) -> str:
    """What measured: the name of the GPU, or the kind of the processor, with PyTorch's version."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.system()} {platform.machine()}"
    return f"{name}, torch {torch.__version__}"


class RowFile:
    """A file that rows are appended to; without a path nothing is kept.

    A row is one line, written at once, so that a run that is stopped leaves whole rows but for the last line at most;
    such a line without its end is written anew.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if path is None or not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")
        for number, line in enumerate(whole.splitlines(), start=1):
            if line.strip():
                self._rows.append(_row(line, f"{path}, line {number}"))

    def kept(self, asked: Mapping[str, object]) -> dict[str, Any] | None:
        """The last row that has all of these settings; None if there is none."""
        fits = (row for row in reversed(self._rows) if all(n in row and row[n] == value for n, value in asked.items()))
        return next(fits, None)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one more row."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._rows.append(dict(row))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise KernelError(f"{where} is no JSON; expected rows that harmony bench kernels --out wrote") from error
    if not isinstance(row, dict):
        raise KernelError(f"{where} is a {type(row).__name__}; expected rows that harmony bench kernels --out wrote")
    return row
