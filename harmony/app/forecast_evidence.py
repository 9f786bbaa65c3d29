"""Evidence of forecasts: what every method scored on every series, kept as it comes, so that a run can go on.

A folder with one file for each data set and horizon, `SET-hHORIZON.jsonl`, a line for each series, method and seed:
what was asked (`asked`: rows read, paths, windows, the data's digest, the method's version) and what came of it
(`scores`, the windows' own CRPS among them). What was asked alike is not scored again.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forecasting.base import Progress
from forecasting.errors import DataError, UsageError
from forecasting.evaluation import PROTOCOLS, EvaluationReport, Settings, Split, evaluate_series
from forecasting.methods import create_method, method_names
from forecasting.panel import Panel
from forecasting.parallel import run_calls
from forecasting.series_scores import SeriesScores
from harmony.app.datasets import DataSet, read_dataset

__all__ = ["Asked", "Line", "Plan", "gather", "installed_methods", "plan", "read_lines", "reports"]

DIGITS = 6  # of a figure that is kept
WINDOW_DIGITS = 4  # of a window's
_FILE = re.compile(r"(?P<dataset>[a-z0-9]+)-h(?P<horizon>[0-9]+)\.jsonl")


@dataclass(frozen=True)
class Asked:
    """All that the scores of a line depend on; equal questions are asked once.

    Attributes:
        version: of the method before it has learned anything: what its code and settings are.
        panel: digest of the data, its first twelve digits.
        windows: most windows of a series; None for all.
    """

    dataset: str
    series: str
    method: str
    version: str
    protocol: str
    horizon: int
    lookback: int
    samples: int
    windows: int | None
    seed: int
    panel: str

    @property
    def place(self) -> tuple[str, str, int]:
        """What a file has one line for."""
        return self.series, self.method, self.seed

    @property
    def run(self) -> tuple[str, int, int, int, int | None, int]:
        """What methods must share to be compared."""
        return self.dataset, self.horizon, self.lookback, self.samples, self.windows, self.seed


@dataclass(frozen=True)
class Line:
    """A question, its answer, and how many rows lie from one scored window to the next."""

    asked: Asked
    scores: SeriesScores
    spacing: float

    def to_text(self) -> str:
        """One line of JSON."""
        told = {
            "asked": asdict(self.asked),
            "spacing": _short(self.spacing, DIGITS),
            "scores": _short(self.scores.to_json(), DIGITS),
            "window_crps": _short(self.scores.to_json(by_window=True)["window_crps"], WINDOW_DIGITS),
        }
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def of(cls, text: str) -> Line:
        """The line of a text; raises `ValueError`, `KeyError` or `TypeError` where it is none."""
        told = json.loads(text)
        found: dict[str, Any] = {k: _number(v) for k, v in told["scores"].items() if k != "indicators"}
        by_indicator = {
            name: {key: _number(v) for key, v in one.items()} for name, one in told["scores"]["indicators"].items()
        }
        windows = tuple(_number(v) for v in told["window_crps"])
        scores = SeriesScores(**found, indicators=by_indicator, window_crps=windows)
        return cls(Asked(**told["asked"]), scores, _number(told["spacing"]))


@dataclass(frozen=True)
class Plan:
    """What is to be scored, and what stands already.

    Attributes:
        calls: arguments of `evaluate_series` by question, in the order in which they are scored.
        kept: questions that are answered.
    """

    calls: Mapping[Asked, tuple[Panel, str, Settings]]
    kept: Sequence[Asked]


def installed_methods() -> tuple[list[str], list[str]]:
    """Names of the methods whose libraries are installed, and of the others."""
    there: list[str] = []
    absent: list[str] = []
    for name in method_names():
        try:
            create_method(name)
        except UsageError:  # of its extra; who asks for the method by name is told which
            absent.append(name)
        else:
            there.append(name)
    return there, absent


def plan(
    datasets: Sequence[DataSet],
    data: Path,
    evidence: Path,
    *,
    methods: Sequence[str],
    horizons: Sequence[int],
    series: Sequence[str] = (),
    lookback: int | None = None,
    samples: int = 1000,
    windows: int | None = 300,
    seed: int = 0,
    again: bool = False,
) -> Plan:
    """What methods on series at horizons are still to be scored, horizon by horizon and method by method.

    With ``again``, what stands is scored anew. Raises `DataError` for data that are missing or too short, `UsageError`
    for a method or series that is unknown.
    """
    versions = {name: create_method(name).version for name in dict.fromkeys(methods)}
    panels = {dataset.name: read_dataset(dataset, data, series) for dataset in datasets}
    if not any(panels.values()):
        known = ", ".join(name for dataset in datasets for name in dataset.series)
        raise UsageError(f"no series {', '.join(series)}; known: {known}")
    digests = {(d, s): panel.digest()[:12] for d, some in panels.items() for s, panel in some.items()}
    standing = set() if again else {line.asked for line in read_lines(evidence)}
    calls: dict[Asked, tuple[Panel, str, Settings]] = {}
    kept = []
    for horizon in dict.fromkeys(horizons):
        for method, version in versions.items():
            for dataset in datasets:
                rows = dataset.lookback if lookback is None else lookback
                settings = Settings(PROTOCOLS[dataset.protocol], rows, horizon, samples, seed, windows)
                for name, panel in panels[dataset.name].items():
                    Split.of(panel, settings)
                    asked = Asked(
                        dataset=dataset.name,
                        series=name,
                        method=method,
                        version=version,
                        protocol=dataset.protocol,
                        horizon=horizon,
                        lookback=rows,
                        samples=samples,
                        windows=windows,
                        seed=seed,
                        panel=digests[dataset.name, name],
                    )
                    if asked in standing:
                        kept.append(asked)
                    else:
                        calls[asked] = (panel, method, settings)
    return Plan(calls, kept)


def gather(
    what: Plan,
    evidence: Path,
    *,
    jobs: int = 1,
    clock: Callable[[], float] = time.process_time,
    progress: Progress | None = None,
) -> None:
    """Score what the plan still lacks and keep each answer at once; an interrupted run loses what it was scoring.

    Seconds are those of the processor by default, which other work on the machine does not lengthen.
    """
    asked = list(what.calls)
    calls = [(*call, clock) for call in what.calls.values()]
    if progress is not None and asked:
        progress(0, len(asked), asked[0].method)
    for done, (i, scores) in enumerate(run_calls(evaluate_series, calls, jobs), start=1):
        panel, _, settings = what.calls[asked[i]]
        origins = Split.of(panel, settings).origins(settings)
        spacing = (origins[-1] - origins[0]) / (len(origins) - 1) if len(origins) > 1 else 1.0
        _keep(Line(asked[i], scores, float(spacing)), evidence)
        if progress is not None:
            progress(done, len(asked), f"{asked[i].method} on {asked[i].dataset} at {asked[i].horizon}")


def read_lines(evidence: Path) -> Iterator[Line]:
    """All lines of a folder, in the order of file names; none where there is no folder.

    Raises `DataError` for a line that cannot be read.
    """
    if not evidence.exists():
        return
    for path in sorted(p for p in evidence.iterdir() if _FILE.fullmatch(p.name)):
        yield from _lines_of(path)


def reports(lines: Iterable[Line]) -> list[EvaluationReport]:
    """What was asked alike of several methods, as one report each; a method has there the series that it was run on."""
    runs: dict[tuple[Any, ...], dict[str, dict[str, SeriesScores]]] = {}
    protocols = {}
    for line in lines:
        runs.setdefault(line.asked.run, {}).setdefault(line.asked.method, {})[line.asked.series] = line.scores
        protocols[line.asked.dataset] = line.asked.protocol
    return [
        EvaluationReport(
            dataset=dataset,
            protocol=protocols[dataset],
            lookback=lookback,
            horizon=horizon,
            samples=samples,
            seed=seed,
            methods=found,
            windows=windows,
        )
        for (dataset, horizon, lookback, samples, windows, seed), found in runs.items()
    ]


def _lines_of(path: Path) -> list[Line]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    found = []
    for number, text in enumerate(texts, start=1):
        try:
            found.append(Line.of(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: line {number} is no score of a forecast ({type(error).__name__}: {error})"
            ) from error
    return found


def _keep(line: Line, evidence: Path) -> None:
    """Put the line into its file in the place of an older answer; the file changes whole."""
    path = evidence / f"{line.asked.dataset}-h{line.asked.horizon}.jsonl"
    others = [one for one in _lines_of(path) if one.asked.place != line.asked.place] if path.exists() else []
    lines = sorted([*others, line], key=lambda one: one.asked.place)
    beside = path.with_name(path.name + ".part")
    try:
        evidence.mkdir(parents=True, exist_ok=True)
        beside.write_text("".join(one.to_text() + "\n" for one in lines), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"--evidence {evidence}: cannot write there ({error.strerror or error})") from error


def _short(value: Any, digits: int) -> Any:  # noqa: ANN401 - walks a JSON tree
    """Floats to so many significant digits."""
    if isinstance(value, dict):
        return {k: _short(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
