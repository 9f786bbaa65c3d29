"""What attention beyond habit says: `python -m benchmarks.beyond_habit --data FOLDER`.

Planted: repeating series of four weeks at five minutes, in which something unusual of half an hour is put into one of
the eleven older stretches that the bundled model reads. How often that stretch has the largest share: of the attention
itself, of what is beyond habit, and of the past by hiding; and how often the attention is called unusual, with the
burst and without. Real: the demand series of `harmony evaluate`, rows between 60 % and 80 %; how far the forecast moves
when the older stretch with the largest share is hidden, over the mean of all older stretches. Writes
benchmarks/beyond_habit.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.zero_shot import HORIZON, LOOKBACK, TEST
from forecasting import habits
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Indicator, IntArray, Panel
from forecasting.windows import WindowBatch
from harmony.app.datasets import chosen, read_dataset

ROWS, STEP_S, DAY = 8_064, 300.0, 288
PLANTED = 60  # forecasts of each kind and size
REAL = 40  # windows of each series
NOISE = 0.25
SIZES = (0.0, 2.0, 4.0, 8.0)
KINDS: dict[str, Callable[[IntArray], FloatArray]] = {
    "a daily wave of 5": lambda t: 10 + 5 * np.sin(2 * np.pi * t / DAY),
    "a wave of 3 every two hours": lambda t: 10 + 3 * np.sin(2 * np.pi * t / 24),
    "constant": lambda t: np.full(len(t), 10.0),
    "5 more for 15 minutes, every 3 hours": lambda t: 10 + 5.0 * (t % 36 < 3),
    "12 more for half an hour, every day": lambda t: 10 + 12.0 * (t % DAY < 6),
}


def moved(model: Forecaster, panel: Panel, end: int, rows: int) -> FloatArray:
    """(stretches,) how far the forecast moves when each stretch is hidden, oldest first."""
    window = WindowBatch.of(panel, [end], LOOKBACK, horizon=HORIZON)
    count = LOOKBACK // rows
    values = np.repeat(window.values, count + 1, axis=0)
    for k in range(count):
        values[k + 1, k * rows : (k + 1) * rows] = np.nan
    assert window.seasonal is not None
    hidden = dataclasses.replace(
        window,
        values=values,
        end_s=np.repeat(window.end_s, count + 1),
        seasonal=np.repeat(window.seasonal, count + 1, axis=0),
    )
    rising = np.sort(model.predict(hidden, HORIZON, samples=100).paths[..., 0], axis=1)
    return np.asarray(np.abs(rising[1:] - rising[:1]).mean(axis=(1, 2)))


def looked(
    model: Forecaster, panel: Panel, end: int, *, same_hour: bool
) -> tuple[FloatArray, FloatArray, float] | None:
    """(attention, shares beyond habit, how unusual), oldest first; None with too little history."""
    step_s = panel.step_s if same_hour else 1e9
    ends, found_same = habits.earlier_ends(end, LOOKBACK, step_s)
    if len(ends) < habits.LEAST_WINDOWS or found_same != same_hour:
        return None
    found, _ = model.looks(WindowBatch.of(panel, np.append(ends, end), LOOKBACK), panel.names[0], HORIZON)
    now, before = found[-1], found[:-1][found[:-1].sum(axis=1) > 0]
    if len(before) < habits.LEAST_WINDOWS or not now.sum() > 0:
        return None
    return now, *habits.contrasted(now, before)


def planted(model: Forecaster, kind: str, size: float) -> list[float]:
    """Shares of forecasts: first by attention, beyond habit (same hour, any), by hiding; unusual (same hour, any)."""
    rows, hits = model.config.patch, np.zeros(6)
    older = LOOKBACK // rows - 1
    for seed in range(PLANTED):
        rng = np.random.default_rng(seed)
        x = KINDS[kind](np.arange(ROWS) + int(rng.integers(DAY))) + NOISE * rng.normal(size=ROWS)
        at, end = int(rng.integers(older)), ROWS - 1 - int(rng.integers(DAY))
        first = end - LOOKBACK + 1 + at * rows + int(rng.integers(rows - 5))
        x[first : first + 6] += size
        panel = Panel(x[:, None], (Indicator("x"),), 0.0, STEP_S)
        daily, spread = looked(model, panel, end, same_hour=True), looked(model, panel, end, same_hour=False)
        assert daily is not None
        assert spread is not None
        ranked = (daily[0], daily[1], spread[1], moved(model, panel, end, rows))
        hits += [
            *(float(x[:older].argmax() == at) for x in ranked),
            float(daily[2] >= habits.UNUSUAL),
            float(spread[2] >= habits.UNUSUAL),
        ]
    return list(hits / PLANTED)


def real(model: Forecaster, panel: Panel) -> list[list[float]]:
    """By way of looking (attention, same hour, any, the best): how far the first older stretch moves the forecast."""
    count = int(TEST * len(panel))
    ends = np.arange(max(len(panel) - 2 * count - 1, 2 * LOOKBACK), len(panel) - count - HORIZON)
    ends = ends[np.linspace(0, len(ends) - 1, min(REAL, len(ends))).round().astype(np.int64)]
    out: list[list[float]] = []
    for end in ends:
        spread = looked(model, panel, int(end), same_hour=False)
        daily = looked(model, panel, int(end), same_hour=True)
        if spread is None:
            continue
        away = moved(model, panel, int(end), model.config.patch)[:-1]
        if not away.sum() > 0:
            continue
        away = away / away.mean()
        by_day = [np.nan, np.nan] if daily is None else [away[daily[1][:-1].argmax()], daily[2] >= habits.UNUSUAL]
        out.append(
            [
                away[spread[0][:-1].argmax()],
                by_day[0],
                away[spread[1][:-1].argmax()],
                away.max(),
                by_day[1],
                spread[2] >= habits.UNUSUAL,
            ]
        )
    return out


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = ap.parse_args()
    model = Forecaster.base()
    lines = [
        "# What attention beyond habit says",
        "",
        f"`python -m benchmarks.beyond_habit --data FOLDER`: the bundled model, {LOOKBACK} rows, {HORIZON} steps "
        f"ahead. Series of 28 days at 5 minutes that repeat, with noise of {NOISE}; half an hour is raised by so much "
        f"in one of the eleven older stretches. {PLANTED} forecasts a row. How often that stretch is first of the "
        "older ones (by chance 9 %), and how often the attention is called unusual (further from habit "
        "than nine tenths of the earlier windows). Habit "
        "is that of windows at the same hour of up to 28 days, or of 64 at any hour.",
        "",
        "| series | raised by | first: attention | beyond habit, same hour | any hour | by hiding | unusual, same hour "
        "| any hour |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in KINDS:
        for size in SIZES:
            found = planted(model, kind, size)
            lines.append(f"| {kind} | {size:g} | " + " | ".join(f"{100 * x:.0f} %" for x in found) + " |")
            print(lines[-1], flush=True)
    lines += [
        "",
        f"Demand of real series, at most {REAL} forecasts of rows between 60 % and 80 %: how far a forecast moves when "
        "the older stretch that is first is hidden, over the mean of the eleven older stretches (`best`: of the one "
        "that moves it most), and how often the attention is called unusual. Empty: less than 10 days before.",
        "",
        "| series | attention | beyond habit, same hour | any hour | best | unusual, same hour | any hour |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = []
    for dataset in chosen(["all"]):
        for name, panel in read_dataset(dataset, args.data).items():
            each = real(model, panel.select(panel.names[:1]))
            if each:
                rows.append(np.array(each, dtype=float).mean(axis=0))
                lines.append(f"| {dataset.name} {name} | {_cells(rows[-1])} |")
                print(lines[-1], flush=True)
    table = np.array(rows)
    ratios, shares = np.exp(np.nanmean(np.log(table[:, :4]), axis=0)), np.nanmean(table[:, 4:], axis=0)
    whole = table[~np.isnan(table).any(axis=1)]
    lines.append(f"| **mean**, geometric of the first four | {_cells(np.append(ratios, shares))} |")
    ratios, shares = np.exp(np.log(whole[:, :4]).mean(axis=0)), whole[:, 4:].mean(axis=0)
    lines.append(f"| **mean of the {len(whole)} rows without a gap** | {_cells(np.append(ratios, shares))} |")
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-2:]))


def _cells(row: FloatArray) -> str:
    ratios = ["" if np.isnan(x) else f"{x:.2f}" for x in row[:4]]
    return " | ".join(ratios + ["" if np.isnan(x) else f"{100 * x:.0f} %" for x in row[4:]])


if __name__ == "__main__":
    main()
