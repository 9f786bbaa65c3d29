"""`ReportShelf`: the replay reports in one folder, as `harmony replay --out` writes them."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Report", "ReportShelf"]

FILE = "report.html"
MOST = 500
HEAD_BYTES = 65_536
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Report:
    """One report: the name of its folder, its headline, when it was written (seconds since the epoch) and its size."""

    name: str
    path: Path
    headline: str
    title: str
    written_s: float
    size: int


class ReportShelf:
    """Reports found in ``folder`` and the folders directly in it.

    Names from an address are only ever looked up among what was found there, so none leads anywhere else.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._seen: dict[Path, tuple[tuple[float, int], Report]] = {}

    def all(self) -> list[Report]:
        """Newest first; empty where there is no folder."""
        if self.folder is None or not self.folder.is_dir():
            return []
        root = self.folder.resolve()
        found = []
        for path in [root / FILE, *sorted(root.glob(f"*/{FILE}"))[:MOST]]:
            report = self._read(path, root)
            if report is not None:
                found.append(report)
        return sorted(found, key=lambda r: (-r.written_s, r.name))

    def get(self, name: str) -> Report | None:
        """The report of that name, or None."""
        return next((r for r in self.all() if r.name == name), None)

    def _read(self, path: Path, root: Path) -> Report | None:
        """One report; None for what is no readable file inside the folder."""
        try:
            real = path.resolve(strict=True)
            about = real.stat()
            if not (real.is_relative_to(root) and real.is_file() and about.st_size <= LARGEST):
                return None
            key = (about.st_mtime, about.st_size)
            kept = self._seen.get(path)
            if kept is not None and kept[0] == key:
                return kept[1]
            with real.open("rb") as file:
                head = file.read(HEAD_BYTES).decode("utf-8", "replace")
        except OSError:  # gone or not ours to read: then it is no report to show
            return None
        name = path.parent.name
        report = Report(name, real, _text(head, "h1") or name, _text(head, "title") or name, *key)
        self._seen[path] = (key, report)
        return report


def _text(page: str, tag: str) -> str:
    """The plain text of the first such element."""
    found = re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL | re.IGNORECASE)
    return "" if found is None else html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip()[:300]
