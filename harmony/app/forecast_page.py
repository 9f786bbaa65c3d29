"""The page of forecasts beside rivals, made of kept evidence alone (`forecast_evidence`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecasting.comparing import Ratio, bootstrap_ratio, mean_ratio, or_last
from forecasting.errors import DataError, UsageError
from forecasting.methods import BENCHMARK, OWN_EXPERTS, OWN_METHODS, method_names
from forecasting.panel import FloatArray
from forecasting.series_scores import SeriesScores
from harmony.app.datasets import DATASETS
from harmony.app.forecast_evidence import Line, read_lines

__all__ = ["render_page", "write_page"]

COMMAND = "harmony evaluate --page-only --page docs/forecast-results.md"
# Central intervals: nominal share, and how far off is still called right.
INTERVALS = (("coverage_50", 0.5, math.nan), ("coverage_80", 0.8, 0.03), ("coverage_95", 0.95, 0.02),
             ("coverage_99", 0.99, 0.007))  # fmt: skip
BY_PART = tuple((key.replace("coverage", "randomised"), nominal, within) for key, nominal, within in INTERVALS[1:])
NOMINAL_ABOVE_999 = 0.001
FACTOR = 2.0

INTRO = """# Forecasts beside rivals

Eight data sets, rolling origin: every method learns from the first 70 % of each series, chooses on the next 10 %, and
is scored on the last 20 %. Protocol, scores, methods and series: [evaluating forecasts](evaluation.md). This page is
made of `evidence/forecasts/` alone, by `{command}`.

{asked}

A ratio is the geometric mean over the series of a set; below 1 is better. In brackets stands where 95 % of the ratios
lie when windows are drawn again, the same for both methods, in stretches of one horizon. Windows nearer than a day are
alike beyond that, so the truth is a little less certain. `harmony_base` learns nothing of a series, but its bundled
weights come from public traces, the first 55 % of the rows of most of these series among them (no row that is scored).
A cell is empty where a method was not run on every series of the set; the best rival is the best of those that were.
The least of a set is bold. A mean is over the sets that the method has, so means over fewer sets do not compare.

Plain intervals hold the whole of a plateau that they end on, so on series with plateaus they hold more than they say,
however right the forecast. *By part* an outcome on a plateau counts by the part of the plateau's levels that lies
inside ([the randomised count](evaluation.md#the-scores)), which is 80, 95 or 99 % of a right forecast in any case.
"""


@dataclass(frozen=True)
class Entry:
    """One method on one series, the mean over its seeds."""

    figures: Mapping[str, float]
    windows: FloatArray
    block: int


Table = dict[str, dict[str, Entry]]  # method: series: entry


def write_page(evidence: Path, page: Path) -> None:
    """Write the page of all evidence; `DataError` where there is none, `UsageError` where it cannot be written."""
    text = render_page(read_lines(evidence), evidence)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--page {page}: cannot write there ({error.strerror})") from error


def render_page(lines: Iterable[Line], evidence: Path) -> str:
    """The page in Markdown; only what was asked as of `ridge` on the same data is compared."""
    tables, asked, left_out = _tables(lines)
    if not tables:
        raise DataError(f"{evidence}: no scores of {BENCHMARK} there, which the others are told relative to")
    parts = [INTRO.format(command=COMMAND, asked=_asked(asked))]
    for horizon in sorted({h for _, h in tables}):
        by_set = {name: tables[name, horizon] for name in DATASETS if (name, horizon) in tables}
        parts += _horizon(horizon, by_set)
    if left_out:
        parts.append(f"Left out, as they were asked otherwise than `{BENCHMARK}`: {', '.join(sorted(left_out))}.")
    return "\n".join(parts).rstrip() + "\n"


# ---- gathering ------------------------------------------------------------------------------------------------
def _tables(lines: Iterable[Line]) -> tuple[dict[tuple[str, int], Table], list[Line], set[str]]:
    """By set and horizon the entries of every method; the lines of the benchmark; methods with lines left out."""
    every = list(lines)
    bench = {
        (a.dataset, a.horizon, a.series, a.seed): line
        for line in every
        if (a := line.asked).method == BENCHMARK and a.dataset in DATASETS
    }
    found: dict[tuple[str, int], dict[str, dict[str, list[Line]]]] = {}
    left_out = set()
    for line in every:
        a = line.asked
        beside = bench.get((a.dataset, a.horizon, a.series, a.seed))
        if beside is None or (a.run, a.panel, a.protocol) != (
            beside.asked.run,
            beside.asked.panel,
            beside.asked.protocol,
        ):
            left_out.add(f"`{a.method}` on {a.dataset} at {a.horizon}")
            continue
        found.setdefault((a.dataset, a.horizon), {}).setdefault(a.method, {}).setdefault(a.series, []).append(line)
    tables = {}
    for place, methods in found.items():
        entries = {m: {s: _entry(some) for s, some in methods[m].items()} for m in sorted(methods, key=_order)}
        # A method that lacks a series of the set has no figure for it.
        tables[place] = {m: e for m, e in entries.items() if e.keys() == entries[BENCHMARK].keys()}
    return tables, list(bench.values()), left_out


def _order(method: str) -> tuple[int, str]:
    """Methods as their list has them; what is not known there comes last."""
    known = method_names()
    return (known.index(method) if method in known else len(known), method)


def _entry(lines: Sequence[Line]) -> Entry:
    names = [n for n, v in vars(lines[0].scores).items() if isinstance(v, int | float)]
    return Entry(
        figures={n: float(np.mean([_figure(line.scores, n) for line in lines])) for n in names},
        windows=np.mean([line.scores.window_crps for line in lines], axis=0),
        block=max(1, math.ceil(lines[0].asked.horizon / lines[0].spacing)),
    )


def _figure(scores: SeriesScores, name: str) -> float:
    return float(getattr(scores, name))


def _asked(bench: Sequence[Line]) -> str:
    def told(values: Iterable[object]) -> str:
        return " or ".join(str(v) for v in sorted(set(values), key=str))

    windows = told("all" if line.asked.windows is None else f"at most {line.asked.windows}" for line in bench)
    samples = told(f"{line.asked.samples:,}" for line in bench)
    lookback = told(line.asked.lookback for line in bench)
    seeds = sorted({line.asked.seed for line in bench})
    return (
        f"Asked of all alike: {lookback} rows read, {samples} sample paths, {windows} windows of a series, evenly "
        f"spaced over its test rows, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    )


# ---- one horizon ----------------------------------------------------------------------------------------------
def _horizon(horizon: int, by_set: Mapping[str, Table]) -> list[str]:
    found = {m for table in by_set.values() for m in table} - {BENCHMARK}
    methods = sorted(found, key=_order)
    own = [m for m in methods if m in OWN_METHODS - OWN_EXPERTS]
    parts = [f"## Horizon {horizon}", "", f"CRPS over that of `{BENCHMARK}`:", ""]
    parts += _matrix(by_set, methods, lambda t, m: _ratio(t[m], t[BENCHMARK]))
    parts += ["", f"Loss of the 0.99 quantile over that of `{BENCHMARK}`:", ""]
    parts += _matrix(by_set, methods, lambda t, m: _over(t, m, BENCHMARK, "pinball_99"))
    for one in own:
        parts += ["", *_verdicts(one, by_set), "", *_beside_each(one, by_set)]
    parts += ["", *_all_methods(by_set, [BENCHMARK, *methods]), ""]
    return parts


def _matrix(
    by_set: Mapping[str, Table], methods: Sequence[str], ratio: Callable[[Table, str], Ratio | float]
) -> list[str]:
    """A row a method, a column a set; then the geometric mean of the method's cells, and how many they are.

    Methods grow in number and sets do not, so the table keeps its width.
    """
    found = {m: {name: ratio(t, m) for name, t in by_set.items() if m in t} for m in methods}
    values = {m: {name: one.value if isinstance(one, Ratio) else one for name, one in row.items()}
              for m, row in found.items()}  # fmt: skip
    least = {name: min([1.0, *(or_last(row[name]) for row in values.values() if name in row)]) for name in by_set}

    def told(method: str, name: str) -> str:
        if name not in found[method]:
            return ""
        one = found[method][name]
        text = _cell(one) if isinstance(one, Ratio) else f"{one:.2f}"
        number, space, interval = text.partition(" ")
        return f"**{number}**{space}{interval}" if values[method][name] == least[name] else text

    rows = {f"`{BENCHMARK}`": [*("**1**" if least[name] == 1 else "1" for name in by_set), f"1 ({len(by_set)})"]}
    for m in methods:
        mean = mean_ratio(values[m], dict.fromkeys(values[m], 1.0))
        rows[f"`{m}`"] = [*(told(m, name) for name in by_set), f"{mean:.3f} ({len(values[m])})"]
    return _markdown(["method", *by_set, "mean (sets)"], rows)


def _verdicts(own: str, by_set: Mapping[str, Table]) -> list[str]:
    """One of the product's own beside the best rival of each set, and whether it says what comes true."""
    rows: dict[str, list[str]] = {}
    wins = {"crps": 0, "p99": 0, "999": 0} | {key: 0 for key, *_ in (*INTERVALS, *BY_PART)}
    counted = 0
    over_ridge = {}
    for name, table in by_set.items():
        rivals = [m for m in table if m not in OWN_METHODS]
        if own not in table:
            continue
        over_ridge[name] = _ratio(table[own], table[BENCHMARK]).value
        best = min(rivals, key=lambda m: or_last(_over(table, m, BENCHMARK, "crps")))
        best_99 = min(rivals, key=lambda m: or_last(_over(table, m, BENCHMARK, "pinball_99")))
        beside, p99 = _ratio(table[own], table[best]), _over(table, own, best_99, "pinball_99")
        factor = _mean(table[own], "above_999") / NOMINAL_ABOVE_999
        wins["crps"] += beside.value <= 1
        wins["p99"] += p99 <= 1
        wins["999"] += 1 / FACTOR <= factor <= FACTOR
        cells = [f"`{best}`", _cell(beside), f"{p99:.2f} (`{best_99}`)"]
        for key, nominal, within in INTERVALS:
            share = _mean(table[own], key)
            wins[key] += abs(share - nominal) <= within
            cells.append(f"{100 * share:.1f}")
        shares = [_mean(table[own], key) for key, *_ in BY_PART]
        counted += not any(math.isnan(share) for share in shares)
        for share, (key, nominal, within) in zip(shares, BY_PART, strict=True):
            wins[key] += abs(share - nominal) <= within
        cells.append(_slashes(shares))
        rows[name] = [*cells, f"{factor:.1f}"]
    if not rows:
        return []
    of = f"of {len(rows)}"
    head = ["set", "best rival", "CRPS over its", "0.99 loss over the best", "50 %", "80 %", "95 %", "99 %",
            "80 / 95 / 99 % by part", "0.999"]  # fmt: skip

    def good(intervals: Iterable[tuple[str, float, float]], sets: int) -> str:
        return ", ".join(
            f"{key.rpartition('_')[2]} % within {100 * within:.2g} points on {wins[key]} of {sets}"
            for key, _, within in intervals
            if within == within
        )

    return [
        f"`{own}` beside the best rival of each set; what its central intervals hold, in percent; and how many times "
        "the stated 0.1 % of outcomes lay above its 0.999 quantile:",
        "",
        *_markdown(head, rows),
        "",
        f"At or below the best rival on {wins['crps']} {of} by CRPS, on {wins['p99']} {of} by the 0.99 loss; "
        f"{mean_ratio(over_ridge, dict.fromkeys(over_ridge, 1.0)):.3f} of the CRPS of `{BENCHMARK}`. Intervals: "
        f"{good(INTERVALS, len(rows))}{f'; by part: {good(BY_PART, counted)}' if counted else ''}; "
        f"the 0.999 quantile within a factor {FACTOR:g} on {wins['999']} {of}.",
    ]


def _beside_each(own: str, by_set: Mapping[str, Table]) -> list[str]:
    """One of the product's own beside every rival by itself."""
    rows: dict[str, list[str]] = {}
    for rival in sorted({m for table in by_set.values() for m in table} - OWN_METHODS, key=_order):
        both = [table for table in by_set.values() if own in table and rival in table]
        if not both:
            continue
        crps = [_ratio(table[own], table[rival]) for table in both]
        p99 = [_over(table, own, rival, "pinball_99") for table in both]
        rows[f"`{rival}`"] = [
            str(len(both)),
            _range([one.value for one in crps]),
            str(sum(one.value <= 1 for one in crps)),
            str(sum(one.low > 1 for one in crps)),
            _range(p99),
            str(sum(one <= 1 for one in p99)),
        ]
    head = ["rival", "sets", "CRPS over its", "at or below on", "behind beyond chance on", "0.99 loss over its",
            "at or below on"]  # fmt: skip
    return [
        f"`{own}` beside each rival by itself, on the sets that both were run on: geometric means, in brackets the "
        "least and the largest of a set; *beyond chance*: the whole interval of a set's ratio lies above 1:",
        "",
        *_markdown(head, rows),
    ]


def _all_methods(by_set: Mapping[str, Table], methods: Sequence[str]) -> list[str]:
    """Means over all sets, of the methods that were run on each."""
    common = list(by_set.values())
    figures: dict[str, Callable[[dict[str, Entry]], str]] = {
        "CRPS": lambda e: f"{_mean(e, 'crps'):.4f}",
        "of demand": lambda e: f"{_mean(e, 'crps_load'):.4f}",
        "energy": lambda e: f"{_mean(e, 'energy_score'):.4f}",
        "MSE": lambda e: f"{_mean(e, 'mse'):.4f}",
        "MAE": lambda e: f"{_mean(e, 'mae'):.4f}",
        "50 / 80 / 95 / 99 %": lambda e: " / ".join(f"{100 * _mean(e, key):.0f}" for key, *_ in INTERVALS),
        "80 / 95 / 99 % by part": lambda e: _slashes([_mean(e, key) for key, *_ in BY_PART]),
        "0.9 / 0.99 / 0.999 loss": lambda e: " / ".join(
            f"{1000 * _mean(e, key):.2f}" for key in ("pinball_90", "pinball_99", "pinball_999")
        ),
        "fit s": lambda e: f"{_mean(e, 'fit_seconds'):.1f}",
        "forecast s": lambda e: f"{_mean(e, 'predict_seconds'):.1f}",
        "MiB": lambda e: f"{_mean(e, 'peak_memory_mib'):.0f}",
    }
    rows = {}
    for m in [m for m in methods if all(m in table for table in common)]:
        together = {f"{i}/{s}": e for i, t in enumerate(common) for s, e in t[m].items()}
        rows[f"`{m}`"] = [figure(together) for figure in figures.values()]
    return [
        f"Means over the {len(common)} sets, every series counting the same (quantile losses in thousandths; "
        "seconds of one core for a series; memory beyond what the process held before):",
        "",
        *_markdown(["method", *figures], rows),
    ]


# ---- figures --------------------------------------------------------------------------------------------------
def _ratio(one: Mapping[str, Entry], other: Mapping[str, Entry]) -> Ratio:
    return bootstrap_ratio([(one[s].windows, other[s].windows) for s in one], [one[s].block for s in one])


def _over(table: Table, one: str, other: str, figure: str) -> float:
    """Geometric mean over the series of a figure of one method over that of another."""
    return mean_ratio(*({s: e.figures[figure] for s, e in table[m].items()} for m in (one, other)))


def _mean(entries: Mapping[str, Entry], figure: str) -> float:
    values = np.array([e.figures[figure] for e in entries.values()])
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _slashes(shares: Sequence[float]) -> str:
    """Shares in percent; nothing where one was not scored."""
    return "" if any(math.isnan(s) for s in shares) else " / ".join(f"{100 * s:.1f}" for s in shares)


def _cell(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _range(values: Sequence[float]) -> str:
    """The geometric mean, the least and the largest."""
    keyed = {str(i): value for i, value in enumerate(values)}
    mean = mean_ratio(keyed, dict.fromkeys(keyed, 1.0))
    return f"{mean:.2f} ({min(values):.2f}–{max(values):.2f})"


def _markdown(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *(f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items()),
    ]
