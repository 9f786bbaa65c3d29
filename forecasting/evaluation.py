"""`evaluate`: forecasting methods against each other over the same windows of the same panels, by a fixed protocol.

The module is not called after the function: `from forecasting import evaluate` would then find the module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from forecasting.base import ForecastModel, Progress
from forecasting.comparing import mean_ratio, or_last
from forecasting.errors import DataError, UsageError, suggest
from forecasting.memory import PeakMemory
from forecasting.methods import BENCHMARK, DEFAULT_METHOD, OWN_METHODS, create_method, method_names
from forecasting.panel import FloatArray, IntArray, Level, Panel
from forecasting.parallel import run_calls
from forecasting.series_scores import SeriesScores, WindowScores, plain, score_windows
from forecasting.windows import WindowBatch

__all__ = [
    "PROTOCOLS",
    "EvaluationReport",
    "Protocol",
    "SeriesScores",
    "Settings",
    "Split",
    "evaluate",
    "evaluate_series",
    "score_model",
]

Methods = Sequence[str] | Mapping[str, Callable[[], ForecastModel]]

# Elements of sample paths held at once (32 MiB of float64).
BLOCK = 4_194_304


@dataclass(frozen=True)
class Protocol:
    """How a panel is cut, what a forecaster may read and which indicators are averaged.

    Attributes:
        name: what reports call it.
        train, test: shares of the rows; validation is what lies between.
        seasonal: whether windows carry values from before the lookback (the same hour yesterday, last week), and the
            longer history that a method says it reads.
        noise: name endings of indicators that are left out of the average over forecastable ones; those that are
            constant in training are always left out.
    """

    name: str
    train: float = 0.7
    test: float = 0.2
    seasonal: bool = True
    noise: tuple[str, ...] = ()


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        # The split, scale and lookback of HARMONY (arXiv 2408.01000) on its Fisher data. The three left out of
        # `crps_forecastable` jump between plateaus at random, which no forecaster can foresee.
        Protocol(
            "fisher-paper",
            seasonal=False,
            noise=("io_service_bytes_Async", "io_service_bytes_Read", "network_tcp_TimeWait"),
        ),
        Protocol("split"),
    )
}


@dataclass(frozen=True)
class Settings:
    """How forecasts are asked for: rows read, steps ahead, paths per forecast, seed; the same for every method.

    ``windows``: at most so many windows of a series are scored, evenly spaced over its test rows; None for all.
    """

    protocol: Protocol
    lookback: int = 72
    horizon: int = 1
    samples: int = 200
    seed: int = 0
    windows: int | None = None

    def __post_init__(self) -> None:
        for name in ("lookback", "horizon", "samples", "windows"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise UsageError(f"{name} {given}: expected 1 or more")


@dataclass(frozen=True)
class Split:
    """Row numbers: training is 0..train-1, validation up to test-1, test up to rows-1."""

    train: int
    test: int
    rows: int

    @classmethod
    def of(cls, panel: Panel, settings: Settings) -> Split:
        """The protocol's split of one panel; `DataError` where a part is too short for lookback and horizon."""
        rows, lookback, horizon = len(panel), settings.lookback, settings.horizon
        split = cls(
            train=int(rows * settings.protocol.train),
            test=rows - int(rows * settings.protocol.test),
            rows=rows,
        )
        if split.train < lookback + horizon:
            raise DataError(
                f"{panel.name}: {rows} rows leave {split.train} for training, fewer than lookback {lookback} + horizon "
                f"{horizon}; give a longer series or a shorter lookback"
            )
        if rows - split.test < horizon:
            raise DataError(
                f"{panel.name}: {rows} rows leave {rows - split.test} for testing, fewer than the horizon {horizon}"
            )
        return split

    def origins(self, settings: Settings) -> IntArray:
        """(windows,) last rows of the windows that are scored: all of whose steps lie in the test rows, or some."""
        every = np.arange(self.test - 1, self.rows - settings.horizon)
        if settings.windows is None or settings.windows >= len(every):
            return every
        some: IntArray = every[np.linspace(0, len(every) - 1, settings.windows).round().astype(np.int64)]
        return some


@dataclass(frozen=True)
class EvaluationReport:
    """Scores by method and series, with what was asked."""

    dataset: str
    protocol: str
    lookback: int
    horizon: int
    samples: int
    seed: int
    methods: dict[str, dict[str, SeriesScores]]
    windows: int | None = None

    def mean(self, method: str) -> dict[str, float]:
        """A method's scores averaged over the series, each series counting the same."""
        rows = list(self.methods[method].values())
        names = [n for n, v in asdict(rows[0]).items() if isinstance(v, int | float)]
        return {n: float(np.mean([getattr(r, n) for r in rows])) for n in names}

    def skill(self, method: str) -> dict[str, Any]:
        """The method's CRPS over that of `ridge`, and over that of the best rival, which is named; None without one.

        Ratios are geometric means over the series. The best rival is the method that is neither this one nor the
        product's own and whose ratio is least.
        """
        crps = {m: {s: r.crps for s, r in series.items()} for m, series in self.methods.items()}
        rivals = [m for m in crps if m != method and m not in OWN_METHODS]
        best = min(rivals, key=lambda m: or_last(mean_ratio(crps[m], crps[rivals[0]])), default=None)
        over_best = None if best is None else mean_ratio(crps[method], crps[best])
        over_ridge = mean_ratio(crps[method], crps[BENCHMARK]) if BENCHMARK in crps else None
        return {"over_ridge": over_ridge, "best_rival": best, "over_best_rival": over_best}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; what could not be scored is null."""
        methods = {
            name: {"mean": plain(self.mean(name)), "series": {s: r.to_json() for s, r in series.items()}}
            for name, series in self.methods.items()
        }
        asked = {f.name: getattr(self, f.name) for f in fields(self)}
        compared = {name: plain(self.skill(name)) for name in self.methods}
        return asked | {"methods": methods, "skill": compared}


def evaluate(
    panels: Mapping[str, Panel],
    *,
    methods: Methods = (DEFAULT_METHOD,),
    protocol: str = "split",
    lookback: int = 72,
    horizon: int = 1,
    samples: int = 200,
    seed: int = 0,
    windows: int | None = None,
    jobs: int = 1,
    dataset: str = "",
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Fit every method on every panel's training part and score every window of its test part.

    Args:
        panels: series by name; each is fitted and scored on its own.
        methods: names (see `forecasting.methods`), or factories by name.
        protocol: name in `PROTOCOLS`.
        lookback: rows that a forecast reads.
        horizon: steps forecast; a score is the mean over them.
        samples: paths per forecast.
        seed: for everything random.
        windows: at most so many windows of each series, evenly spaced over its test rows; all by default.
        jobs: worker processes; results do not depend on it.
        dataset: what the report calls the data.
        clock: seconds, for `fit_seconds` and `predict_seconds`.
        progress: told (done, total, what) after each method and series.

    Raises `UsageError` for unknown names or numbers below 1, `DataError` for panels that are too short.
    """
    settings = Settings(_protocol(protocol), lookback, horizon, samples, seed, windows)
    factories = _factories(methods)
    if not panels:
        raise DataError("no series to evaluate")
    if jobs < 1:
        raise UsageError(f"jobs {jobs}: expected 1 or more")
    for panel in panels.values():
        Split.of(panel, settings)
    tasks = [(method, series) for series in panels for method in factories]
    calls = [(panels[series], factories[method], settings, clock) for method, series in tasks]
    found: dict[tuple[str, str], SeriesScores] = {}
    for done, (i, result) in enumerate(run_calls(evaluate_series, calls, jobs), start=1):
        found[tasks[i]] = result
        if progress is not None:
            progress(done, len(tasks), f"{tasks[i][0]} on {tasks[i][1]}")
    return EvaluationReport(
        dataset=dataset,
        protocol=settings.protocol.name,
        lookback=lookback,
        horizon=horizon,
        samples=samples,
        seed=seed,
        methods={m: {s: found[m, s] for s in panels} for m in factories},
        windows=windows,
    )


def evaluate_series(
    panel: Panel,
    factory: str | Callable[[], ForecastModel],
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> SeriesScores:
    """One method on one panel: fit on the training part, choose on validation, score every test window.

    The lookback of the first validation window reaches back into training, that of the first test window into
    validation.
    """
    split = Split.of(panel, settings)
    model = create_method(factory) if isinstance(factory, str) else factory()
    memory = PeakMemory()
    began = clock()
    with memory:
        model.fit(
            [panel.rows(0, split.train)],
            lookback=settings.lookback,
            horizon=settings.horizon,
            validation=[panel.rows(split.train - settings.lookback, split.test)],
            seed=settings.seed,
        )
    return score_model(model, panel, split, settings, clock, fit_seconds=clock() - began, memory=memory)


def score_model(
    model: ForecastModel,
    panel: Panel,
    split: Split,
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
    *,
    fit_seconds: float = 0.0,
    memory: PeakMemory | None = None,
) -> SeriesScores:
    """A fitted model on the windows whose steps all lie in the split's test rows; the model gets raw units.

    ``fit_seconds`` and ``memory`` are those of its fit, where it had one.
    """
    horizon, samples = settings.horizon, settings.samples
    low, span = _min_max(panel.values[: split.train])
    ends = split.origins(settings)
    size = max(1, BLOCK // (samples * horizon * len(panel.indicators)))
    ahead = horizon if settings.protocol.seasonal else 0
    rows = max(settings.lookback, getattr(model, "history", 0) if settings.protocol.seasonal else 0)
    parts = []
    predict_seconds = 0.0
    memory = memory or PeakMemory()
    for lo in range(0, len(ends), size):
        some = ends[lo : lo + size]
        windows = WindowBatch.of(panel, some, rows, horizon=ahead)
        began = clock()
        with memory:
            forecast = model.predict(windows, horizon, samples=samples, seed=settings.seed)
        predict_seconds += clock() - began
        outcome = panel.values[some[:, None] + np.arange(1, horizon + 1)]
        parts.append(score_windows((forecast.paths - low) / span, (outcome - low) / span))
    return WindowScores.join(parts).summary(
        panel.names,
        next((i for i, ind in enumerate(panel.indicators) if ind.level == Level.DEMAND), 0),
        _forecastable(panel, settings.protocol, split),
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds,
        peak_memory_mib=memory.mib,
    )


def _min_max(train: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least value and range of every indicator; (0, 1) for one never seen, the size of its value for a constant."""
    low = np.fmin.reduce(train, axis=0)
    span = np.fmax.reduce(train, axis=0) - low
    low = np.where(np.isnan(low), 0.0, low)
    # In its own unit an error of a millionth of a memory limit in bytes would outweigh all other indicators.
    size = np.where(low != 0.0, np.abs(low), 1.0)
    return low, np.where(span > 0, span, size)


def _forecastable(panel: Panel, protocol: Protocol, split: Split) -> list[int]:
    """Columns that vary in training and are not noise by the protocol; all where none is left."""
    train = panel.values[: split.train]
    varies = np.fmax.reduce(train, axis=0) > np.fmin.reduce(train, axis=0)
    kept = [i for i, name in enumerate(panel.names) if varies[i] and not name.endswith(protocol.noise)]
    return kept or list(range(len(panel.names)))


def _protocol(name: str) -> Protocol:
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"no evaluation protocol {name!r}; {suggest(name, PROTOCOLS)}") from None


def _factories(methods: Methods) -> Mapping[str, str | Callable[[], ForecastModel]]:
    """Factories by method name; names stand for themselves and are looked up by the worker."""
    if isinstance(methods, Mapping):
        return methods
    if isinstance(methods, str):
        methods = (methods,)
    for name in dict.fromkeys(methods):
        if name not in OWN_METHODS:  # a wrong name or a missing extra shall show before any work, torch need not load
            create_method(name)
    if not methods:
        raise UsageError(f"no method to evaluate; known: {', '.join(method_names())}")
    return {name: name for name in methods}
