"""`ReportShelf`: the replay reports in one folder, as `harmony replay --out` writes them; two of them side by side."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from pathlib import Path

from forecasting.errors import DataError

__all__ = ["Report", "ReportShelf"]

FILE = "report.html"
FIGURES = "replay.json"
MOST = 500
HEAD_BYTES = 65_536
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Report:
    """One report: the name of its folder, its headline, when it was written (seconds since the epoch) and its size.

    `figures` is the file of its figures, by which it can be compared; None where there is none.
    """

    name: str
    path: Path
    headline: str
    title: str
    written_s: float
    size: int
    figures: Path | None = None

    def matches(self, words: str) -> bool:
        """Whether name, headline and title hold all of the words."""
        text = f"{self.name} {self.headline} {self.title}".casefold()
        return all(word in text for word in words.casefold().split())


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

    def compared(self, a: str, b: str) -> str:
        """The page of two reports side by side; `DataError` where either has no figures to compare."""
        from simulator.comparing import compare, read_run, render_comparison  # draws: seconds to load

        runs = []
        for name in (a, b):
            report = self.get(name)
            if report is None or report.figures is None:
                raise DataError(f"{name!r}: no report with a {FIGURES}; expected one that `harmony replay --out` wrote")
            try:
                runs.append(read_run(report.figures))
            except DataError:
                raise DataError(f"{name!r}: its {FIGURES} holds no replay's figures") from None
        return render_comparison(compare(runs[0], runs[1], (a, b)))

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
                return replace(kept[1], figures=_figures(real, root))
            with real.open("rb") as file:
                head = file.read(HEAD_BYTES).decode("utf-8", "replace")
        except OSError:  # gone or not ours to read: then it is no report to show
            return None
        name = path.parent.name
        report = Report(name, real, _text(head, "h1") or name, _text(head, "title") or name, *key, _figures(real, root))
        self._seen[path] = (key, report)
        return report


def _figures(report: Path, root: Path) -> Path | None:
    """The file of figures beside a report; None for what is no file of bearable size inside the folder."""
    try:
        real = (report.parent / FIGURES).resolve(strict=True)
        usable = real.is_relative_to(root) and real.is_file() and real.stat().st_size <= LARGEST
    except OSError:
        return None
    return real if usable else None


def _text(page: str, tag: str) -> str:
    """The plain text of the first such element."""
    found = re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL | re.IGNORECASE)
    return "" if found is None else html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip()[:300]
