"""Seeded synthetic services: `generate` makes one of four profiles, `random_panel` draws a service at random.

The profiles are calibrated on published statistics of public traces (see `docs/traces.md`); the few numbers taken
over stand in `simulator.traces.profiles` with their source. Time is UTC. Same arguments, same values: each component
(shape, noise, bursts, indicators, holes) has its own random stream, so that changing one leaves the others alone.
"""

from __future__ import annotations

import math

import numpy as np

from forecasting.errors import UsageError, suggest
from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S, WEEK_S
from simulator.traces import signals
from simulator.traces.profiles import MONDAY_S, PROFILES, GeneratorOptions
from simulator.traces.services import Columns, batch_columns, batch_jobs, generic_columns, llm_columns, web_columns

__all__ = ["MONDAY_S", "PROFILES", "GeneratorOptions", "generate", "random_panel"]

_MAX_ROWS = 20_000_000


def generate(
    *,
    profile: str = "chat",
    days: float = 14.0,
    step_s: float = 60.0,
    seed: int = 0,
    options: GeneratorOptions | None = None,
    start_s: float = MONDAY_S,
) -> Panel:
    """A synthetic service as a panel, demand first; same arguments, same values.

    Args:
        profile: "chat", "code", "batch" or "web" (`PROFILES`); names the panel even where ``options`` replace it.
        days: length; ``days * 86400 / step_s`` rows, rounded.
        step_s: seconds between rows.
        seed: of the random streams, at least 0.
        options: used instead of the profile's own.
        start_s: time of the first row, seconds since the Unix epoch.

    Raises:
        UsageError: unknown profile, or a length, step or seed that makes no panel of 2 to 20 million rows.
    """
    if profile not in PROFILES:
        raise UsageError(f"no profile {profile!r}; {suggest(profile, PROFILES)}")
    if not (math.isfinite(step_s) and step_s > 0 and math.isfinite(days) and days > 0):
        raise UsageError(f"days={days}, step_s={step_s}: expected finite numbers above 0")
    rows = round(days * DAY_S / step_s)
    if not 2 <= rows <= _MAX_ROWS:
        raise UsageError(f"{days} days in steps of {step_s} s are {rows} rows; expected 2 to {_MAX_ROWS:,}")
    if seed < 0:
        raise UsageError(f"seed={seed}: expected a whole number of at least 0")
    opt = PROFILES[profile] if options is None else options
    shape, noise, bursts, counts, others, absent = _streams(seed)
    edges = start_s + step_s * np.arange(rows + 1, dtype=np.float64)
    level = _relative_demand(opt, edges, shape, noise, bursts)
    columns = _columns(opt, edges, level, counts, others)
    return _assemble(opt, columns, absent, start_s=start_s, step_s=step_s, name=f"synthetic-{profile}")


def _streams(seed: int) -> list[np.random.Generator]:
    """One independent random stream a component (shape, noise, bursts, counts, other indicators, holes)."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)]


def _assemble(
    opt: GeneratorOptions, columns: Columns, absent: np.random.Generator, *, start_s: float, step_s: float, name: str
) -> Panel:
    """The columns as a panel: rounded to the options' digits, with readings lost."""
    values = np.column_stack([v for _, v in columns])
    lost = signals.holes(
        absent,
        (values.shape[0], values.shape[1]),
        step_s=step_s,
        share=opt.missing_share,
        outages_per_week=opt.outages_per_week,
        outage_mean_s=opt.outage_mean_s,
    )
    values = np.where(lost, np.nan, signals.round_significant(values, opt.digits))
    indicators = tuple(i for i, _ in columns)
    return Panel(values=values, indicators=indicators, start_s=start_s, step_s=step_s, name=name)


def _relative_demand(
    opt: GeneratorOptions,
    edges: FloatArray,
    shape: np.random.Generator,
    noise: np.random.Generator,
    bursts: np.random.Generator,
) -> FloatArray:
    """(rows,) expected demand over ``opt.mean``: shape x trend x regimes x slow noise x bursts x spells of nothing."""
    step = float(edges[1] - edges[0])
    times = (edges[:-1] + edges[1:]) / 2.0
    rows = len(times)
    level = signals.day_shape(times, half_range=opt.day_half_range, peak_hour=opt.peak_hour)
    level = level * signals.weekly_levels(
        shape, times, weekday_over_weekend=opt.weekday_over_weekend, day_cv=opt.day_cv
    )
    if opt.cycle_half_range > 0:
        level = level * signals.cycle(
            times,
            period_s=opt.cycle_period_s,
            half_range=opt.cycle_half_range,
            phase=float(shape.random()),
            sharpness=opt.cycle_sharpness,
        )
    level = level * (1.0 + opt.growth_per_week) ** ((times - edges[0]) / WEEK_S)
    level = level * signals.regime_levels(shape, times, per_week=opt.regimes_per_week, sigma=opt.regime_sigma)
    level = level * signals.ar_noise(noise, rows, cv=opt.slow_cv, scale_s=opt.slow_scale_s, step_s=step)
    level = level * (
        1.0
        + signals.burst_lift(
            bursts,
            edges,
            per_day=opt.bursts_per_day,
            height_median=opt.burst_height_median,
            tail_index=opt.burst_tail_index,
            mean_s=opt.burst_mean_s,
            cap=opt.burst_cap,
        )
    )
    spells = signals.on_off(noise, rows, share=opt.on_share, mean_on_rows=max(opt.on_mean_s / step, 1.0))
    return np.asarray(level * spells)


def _columns(
    opt: GeneratorOptions,
    edges: FloatArray,
    level: FloatArray,
    counts: np.random.Generator,
    others: np.random.Generator,
) -> Columns:
    """The service's indicators, demand first: counts are Poisson around Gamma-noised demand, or a stream of jobs."""
    step = float(edges[1] - edges[0])
    if opt.service == "batch":
        asked, jobs, submitted = batch_jobs(counts, edges, level, opt)
        return batch_columns(others, asked, jobs, submitted, np.ceil(opt.headroom * opt.mean), step)
    spread = opt.fast_cv**2 * 60.0 / step  # a Gamma process: independent increments, so longer steps vary less
    intensity = level if spread == 0 else level * counts.gamma(1.0 / spread, spread, size=len(level))
    requests = counts.poisson(opt.mean * step * intensity).astype(np.float64)
    if opt.service == "web":
        return web_columns(others, requests, opt.headroom * opt.mean, step)
    return llm_columns(others, requests, opt.headroom * opt.mean, step, opt)


def random_panel(seed: int, *, rows: int | None = None) -> Panel:
    """A service drawn at random, for training a forecaster on variety: any scale, step, shape and number of indicators.

    Steps of 15 s to 1 h, 1500 to 6000 rows, 1 to 8 indicators; smooth and bursty, with and without daily cycle or
    calendar, other periods, trends, jumps, step-like integers, series that are zero most of the time, missing data.

    Args:
        seed: of everything that is drawn, at least 0.
        rows: a fixed number of rows instead of a random one (2 to 20 million).

    Raises:
        UsageError: negative seed or a number of rows out of bounds.
    """
    if seed < 0:
        raise UsageError(f"seed={seed}: expected a whole number of at least 0")
    if rows is not None and not 2 <= rows <= _MAX_ROWS:
        raise UsageError(f"rows={rows}: expected 2 to {_MAX_ROWS:,}")
    entropy = [seed, 0x52414E44]
    for again in range(20):  # a service that asked for nothing at all is drawn again (one in some thousands)
        rng = np.random.default_rng(np.random.SeedSequence([*entropy, again] if again else entropy))
        panel = _draw_panel(rng, rows, f"random-{seed}")
        if (np.nan_to_num(panel.values[:, 0]) > 0).any():
            break
    return panel


def _draw_panel(rng: np.random.Generator, rows: int | None, name: str) -> Panel:
    """A panel of a random step, length, service, start and choice of indicators."""
    step = float(rng.choice([15.0, 30.0, 60.0, 60.0, 300.0, 600.0, 1800.0, 3600.0]))
    drawn = round(float(np.exp(rng.uniform(np.log(1500), np.log(6000)))))
    count = drawn if rows is None else rows
    generic = bool(rng.random() < 0.4)
    opt = _random_options(rng, step, count)
    start = float(np.floor(rng.uniform(0.0, 3650.0 * DAY_S) / step) * step) + MONDAY_S - 3653.0 * DAY_S
    edges = start + step * np.arange(count + 1, dtype=np.float64)
    shape, noise, bursts, counts, others, absent = rng.spawn(6)
    level = _relative_demand(opt, edges, shape, noise, bursts)
    columns = generic_columns(others, level, step, opt.mean) if generic else _columns(opt, edges, level, counts, others)
    wanted = int(rng.integers(1, 9))
    rest = [c for c in columns[1:] if np.isfinite(c[1]).mean() > 0.05]
    picked = sorted(rng.permutation(len(rest))[: wanted - 1].tolist())
    columns = [columns[0], *(rest[i] for i in picked)]
    panel = _assemble(opt, columns, absent, start_s=start, step_s=step, name=name)
    return panel.replace(calendar=bool(rng.random() < 0.75))


def _random_options(rng: np.random.Generator, step: float, rows: int) -> GeneratorOptions:
    """Options drawn so that what they describe can be seen in a panel of that step and length."""
    span = step * rows
    weeks = span / WEEK_S

    def sometimes(chance: float, value: float, otherwise: float = 0.0) -> float:
        return value if rng.random() < chance else otherwise

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def scaled(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    service = str(rng.choice(["llm", "web", "batch"], p=[0.55, 0.25, 0.2]))
    mean = scaled(1.0, 1000.0) if service == "batch" else max(scaled(1e-3, 1e4), 200.0 / span)
    period = float(rng.choice([900.0, 3600.0, 7200.0, 21_600.0, 43_200.0, scaled(12 * step, span / 6)]))
    return GeneratorOptions(
        service=service,
        mean=mean,
        day_half_range=sometimes(0.8, between(0.05, 1.4)),
        peak_hour=between(0.0, 24.0),
        weekday_over_weekend=sometimes(0.7, between(0.8, 2.5), 1.0),
        day_cv=between(0.0, 0.25),
        growth_per_week=sometimes(0.5, float(np.expm1(np.clip(between(-0.8, 1.2) / weeks, -2.0, 3.0)))),
        cycle_period_s=max(period, 3.0 * step),
        cycle_half_range=sometimes(0.35, between(0.1, 1.0)),
        cycle_sharpness=scaled(0.5, 20.0),
        regimes_per_week=sometimes(0.4, between(1.0, 6.0) / weeks),
        regime_sigma=between(0.1, 0.8),
        slow_cv=scaled(0.02, 0.7),
        slow_scale_s=scaled(2.0 * step, max(43_200.0, 4.0 * step)),
        fast_cv=sometimes(0.85, scaled(0.02, 1.0)),
        bursts_per_day=sometimes(0.6, scaled(2.0, 60.0) * DAY_S / span),
        burst_height_median=between(1.5, 8.0),
        burst_tail_index=between(1.2, 6.0),
        burst_mean_s=scaled(step / 2.0, 40.0 * step),
        burst_cap=between(5.0, 60.0),
        on_share=sometimes(0.12, between(0.05, 0.6), 1.0),
        on_mean_s=step * scaled(1.0, 60.0),
        headroom=between(1.5, 6.0),
        requests_per_gpu=scaled(0.5, 20.0),
        prompt_tokens_mean=scaled(50.0, 15_000.0),
        prompt_tokens_cv=between(0.3, 2.0),
        output_tokens_mean=scaled(10.0, 2000.0),
        output_tokens_cv=between(0.3, 2.5),
        job_log_mean=float(np.log(step)) + between(1.0, 4.0),
        job_log_sigma=between(0.5, 2.0),
        missing_share=sometimes(0.6, scaled(3e-4, 0.15)),
        outages_per_week=sometimes(0.4, between(1.0, 4.0) / weeks),
        outage_mean_s=step * scaled(2.0, 60.0),
        digits=int(rng.integers(3, 7)),
    )
