"""Synthetic services: seeded, sound, shaped as their story says, and cheap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, stats

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from forecasting.synthetic import FAMILIES, curves, processes, synthetic_service, synthetic_services
from forecasting.synthetic.indicators import KINDS
from forecasting.windows import DAY_S

SEEDS = st.integers(0, 2**32)


def seen(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]


# ---- services ------------------------------------------------------------------------------------------------
def test_equal_seeds_give_equal_services_and_other_seeds_others() -> None:
    one, again, other = (synthetic_service(s) for s in (7, 7, 8))
    assert one.panel.digest() == again.panel.digest()
    assert one.story == again.story
    assert one.panel.digest() != other.panel.digest()


def test_the_first_services_of_a_run_are_those_of_a_longer_one() -> None:
    few, many = (list(synthetic_services(3, count)) for count in (2, 4))
    assert [s.panel.digest() for s in few] == [s.panel.digest() for s in many[:2]]
    assert len({s.panel.digest() for s in many}) == 4


def test_no_seed_of_several_numbers_is_that_of_fewer() -> None:
    assert len({synthetic_service(s).panel.digest() for s in (1, (1, 0), (1, 0, 0), (0, 1))}) == 4


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, family=st.sampled_from([None, *FAMILIES]))
def test_every_service_is_sound(seed: int, family: str | None) -> None:
    service = synthetic_service(seed, family=family)
    panel, story = service.panel, service.story
    demand = seen(panel.values[:, 0])
    assert 1200 <= len(panel) <= 4500
    assert panel.step_s in (60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
    assert 1 <= len(panel.indicators) <= 8
    assert (panel.names[0], panel.indicators[0].level) == ("demand", 1)
    assert [i.level for i in panel.indicators] == sorted(i.level for i in panel.indicators)
    assert len(demand) > 0.3 * len(panel)
    assert (demand >= 0).all()
    assert set(story.lags) <= set(panel.names[1:])
    assert family in (None, story.family)
    if story.readings in ("counts", "integers"):
        assert (demand == np.round(demand)).all()


@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS,
    step_s=st.sampled_from([1.0, 15.0, 7 * 60.0, DAY_S]),
    rows=st.sampled_from([64, 100, 1000]),
    indicators=st.integers(1, 12),
    family=st.sampled_from(FAMILIES),
)
def test_what_is_asked_for_is_given(seed: int, step_s: float, rows: int, indicators: int, family: str) -> None:
    panel = synthetic_service(seed, family=family, step_s=step_s, rows=rows, indicators=indicators).panel
    assert (panel.step_s, panel.values.shape) == (step_s, (rows, indicators))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "whole numbers of at least 0"),
        ({"seed": ()}, "whole numbers of at least 0"),
        ({"family": "seasons"}, "no family of demand 'seasons'; did you mean 'season'"),
        ({"step_s": 0.0}, "expected 1 to 86400 seconds"),
        ({"step_s": float("nan")}, "expected 1 to 86400 seconds"),
        ({"rows": 10}, "expected 64 to"),
        ({"indicators": 0}, "expected 1 to 12"),
    ],
)
def test_unusable_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthetic_service(**{"seed": 0, **arguments})  # type: ignore[arg-type]


def test_what_is_absent_changes_nothing_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    services = list(synthetic_services(1, 40))
    monkeypatch.setattr("forecasting.synthetic.services._lost", lambda rng, shape: np.zeros(shape, dtype=bool))
    lost = []
    for service, whole in zip(services, synthetic_services(1, 40), strict=True):
        there = ~np.isnan(service.panel.values)
        assert not np.isnan(whole.panel.values).any()
        np.testing.assert_array_equal(service.panel.values[there], whole.panel.values[there])
        lost.append(1 - there.mean())
    assert 0.2 < np.mean(np.array(lost) > 0) < 0.95
    assert max(lost) < 0.6


def test_blocks_are_lost_as_blocks_and_about_as_many_as_asked_for() -> None:
    lost = curves.blocks_lost(np.random.default_rng(0), 200_000, share=0.1, mean_rows=20.0)
    edges = np.diff(np.concatenate([[0], lost, [0]]).astype(int))
    lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    assert lost.mean() == pytest.approx(0.095, abs=0.01)  # some overlap
    assert lengths.mean() == pytest.approx(21.0, rel=0.1)


def correlation(a: FloatArray, b: FloatArray) -> float:
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < 100 or np.std(a[known]) == 0 or np.std(b[known]) == 0:
        return float("nan")
    return float(stats.spearmanr(a[known], b[known])[0])


def test_indicators_follow_the_demand_by_the_lags_that_are_stated() -> None:
    """Of spikes (a slow demand looks alike at all lags): where the correlation with an indicator is highest."""
    found: dict[str, list[int]] = {}
    for number in range(60):
        service = synthetic_service((5, number), family="spikes", step_s=300.0, rows=3000, indicators=6)
        demand = service.panel.values[:, 0]
        if np.nanstd(np.diff(demand)) < 0.5 * np.nanstd(demand):
            continue
        for name, lag in service.story.lags.items():
            x = service.panel.column(name)
            at = {k: correlation(x[16:-16], demand[16 - k : len(x) - 16 - k]) for k in range(-12, 13)}
            found.setdefault(name.split("_")[0], []).append(max(at, key=lambda k: at[k]) - lag)
    for kind, errors in found.items():
        error = np.array(errors)
        assert len(error) > 10, kind
        if kind in ("queue", "memory", "warmth"):  # what remembers is highest there or after
            assert np.mean(error >= 0) > 0.9, kind
        else:
            assert np.mean(error == 0) > 0.6, kind


def test_levels_go_together() -> None:
    found: dict[str, list[float]] = {}
    for number in range(60):
        service = synthetic_service((6, number), family="season", rows=2000, indicators=6)
        for name, lag in service.story.lags.items():
            x = service.panel.column(name)
            shifted = np.full(len(x), np.nan)
            if lag >= 0:
                shifted[lag:] = service.panel.values[: len(x) - lag, 0]
            else:
                shifted[:lag] = service.panel.values[-lag:, 0]
            found.setdefault(name.split("_")[0], []).append(correlation(x, shifted))
    assert set(found) == {k for k in KINDS if k not in ("errors", "background", "flips", "limit")}
    for kind, values in found.items():
        assert np.nanmedian(values) > (0.2 if kind == "queue" else 0.4), kind  # queues are mostly empty


def test_the_spectrum_has_the_periods_that_are_stated() -> None:
    """Power at a stated period and its overtones, over that of as many frequencies between them."""
    ratios = []
    for number in range(60):
        service = synthetic_service((2, number), family="season", step_s=1800.0, rows=48 * 7 * 8, indicators=1)
        if DAY_S not in service.story.periods_s:
            continue
        demand = service.panel.values[:, 0]
        demand = np.where(np.isnan(demand), np.nanmean(demand), demand)
        demand = np.log1p(demand / demand.mean())
        power = np.abs(fft.rfft(demand - demand.mean())) ** 2
        day = len(demand) // 48
        ratios.append(power[[day, 2 * day]].sum() / power[[day + day // 2, 2 * day + day // 2]].sum())
    assert len(ratios) > 15
    assert np.median(ratios) > 30
    assert np.mean(np.array(ratios) > 2) > 0.9


def test_days_begin_by_the_clock() -> None:
    """The hour of the day that is busiest is nearer to the afternoon than chance has it."""
    hours = []
    for number in range(80):
        service = synthetic_service((3, number), family="season", step_s=3600.0, rows=24 * 56, indicators=1)
        if DAY_S in service.story.periods_s:
            panel = service.panel
            hour = (panel.times_s % DAY_S) // 3600
            hours.append(np.argmax([np.nanmean(panel.values[hour == h, 0]) for h in range(24)]))
    assert np.mean((np.array(hours) >= 10) & (np.array(hours) <= 20)) > 0.55  # 0.46 of all hours


def test_work_grows_with_the_rows_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """In numbers that are transformed: a Gaussian process of n rows takes transforms of 2 n, a few a service."""
    done: list[int] = []
    forward = fft.rfft

    def counting(x: FloatArray, *args: object, **options: object) -> object:
        done.append(np.size(x))
        return forward(x, *args, **options)

    monkeypatch.setattr(processes.fft, "rfft", counting)
    for rows in (2000, 16_000):
        for number in range(20):
            synthetic_service((4, number), family="process", rows=rows, indicators=8)
        total, calls = sum(done), len(done)
        done.clear()
        assert calls <= 20 * 2 * 8
        assert total <= calls * 2.2 * (rows + 64)


# ---- parts ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", processes.KERNELS)
def test_processes_have_the_covariance_of_their_kernel(name: str) -> None:
    scale = {"periodic": 1600.0, "cosine": 1600.0}.get(name, 900.0)
    kernel = processes.Factor(name, scale, 1.5)
    paths = processes.sample(np.random.default_rng(0), kernel, rows=256, step_s=100.0, paths=20_000)
    lags = np.array([0, 1, 3, 8, 16, 40])
    found = [(paths[:, 100] * paths[:, 100 + k]).mean() for k in lags]
    np.testing.assert_allclose(found, kernel(100.0 * lags), atol=0.05)
    assert abs(paths.mean()) < 0.02


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 5000))
def test_composed_kernels_are_covariances_of_variance_one(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = processes.draw_kernel(rng, rows=rows, step_s=60.0, calendar=processes.CALENDAR_S)
    lags = 60.0 * np.arange(min(rows, 60))
    values = kernel(lags)
    assert values[0] == pytest.approx(1.0)
    assert (np.abs(values) <= 1 + 1e-9).all()
    table = values[np.abs(np.subtract.outer(np.arange(len(lags)), np.arange(len(lags))))]
    assert np.linalg.eigvalsh(table).min() > -1e-8
    assert np.isfinite(processes.sample(rng, kernel, rows=rows, step_s=60.0)).all()


def test_queues_are_lindleys_recursion() -> None:
    arrivals = np.random.default_rng(1).gamma(1.0, size=500)
    waiting, expected = 0.0, []
    for x in arrivals:
        waiting = max(0.0, waiting + x - 1.1)
        expected.append(waiting)
    np.testing.assert_allclose(curves.backlog(arrivals, 1.1), expected, atol=1e-9)


def test_counts_have_the_mean_and_variance_that_are_asked_for() -> None:
    rng, mean = np.random.default_rng(2), np.full(400_000, 8.0)
    for dispersion in (0.0, 0.5):
        counts = curves.counted(rng, mean, dispersion=dispersion)
        assert counts.mean() == pytest.approx(8.0, rel=0.01)
        assert counts.var() == pytest.approx(8.0 + dispersion * 64.0, rel=0.02)


def test_smoothing_begins_at_the_first_value_and_keeps_constants() -> None:
    assert np.allclose(curves.smoothed(np.full(50, 3.0), 7.0), 3.0)
    values = np.arange(10.0)
    assert curves.smoothed(values, 0.0) is values


def test_spells_are_awake_for_the_share_that_is_asked_for() -> None:
    awake = curves.spells(np.random.default_rng(3), 300_000, share=0.2, mean_rows=10.0)
    assert awake.mean() == pytest.approx(0.2, rel=0.1)
    changes = np.flatnonzero(np.diff(awake.astype(int)))
    assert awake.sum() / (len(changes) / 2) == pytest.approx(10.0, rel=0.1)


def test_regimes_differ_in_level_and_in_noise() -> None:
    path = curves.regimes(np.random.default_rng(4), 20_000, kinds=3, mean_rows=1000.0)
    blocks = path.reshape(-1, 200)
    assert blocks.mean(axis=1).std() > 0.3
    within = blocks.std(axis=1)
    assert np.quantile(within, 0.9) > 1.5 * np.quantile(within, 0.1)


def test_schedules_come_back_after_their_period() -> None:
    times = 60.0 * np.arange(6000)
    train = curves.scheduled(np.random.default_rng(5), times, period_s=3600.0, width_s=300.0, step_s=60.0)
    phase = (times % 3600.0).astype(int)
    busy = {p for p in phase[train > 0]}
    assert 0 < len(busy) <= 6
