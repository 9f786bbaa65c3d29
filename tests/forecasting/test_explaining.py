"""What an explanation says moved a forecast, beside what is known to have moved it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecasting.baselines.last_value import LastValue
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.ensemble import Ensemble
from forecasting.errors import DataError
from forecasting.explaining import Explanation, explain
from forecasting.forecaster import Forecaster
from forecasting.panel import Indicator, Panel
from forecasting.windows import WindowBatch
from tests.forecasting.builders import wavy

LOOKBACK, LAG = 12, 3
NAMES = ("demand", "orders", "weather", "dead")


def led(rows: int = 1500, seed: int = 0) -> Panel:
    """Demand that follows orders three steps later; weather is noise, a fourth indicator was never read."""
    rng = np.random.default_rng(seed)
    orders, weather = rng.normal(50.0, 10.0, (2, rows))
    demand = 20.0 + 2.0 * np.roll(orders, LAG) + rng.normal(0.0, 1.0, rows)
    values = np.column_stack([demand, orders, weather, np.full(rows, np.nan)])
    return Panel(values, tuple(Indicator(n, level=1) for n in NAMES), 0.0, 60.0, calendar=False)


@pytest.fixture(scope="module")
def learned() -> Forecaster:
    shape = ModelConfig(
        lookback=LOOKBACK, horizon=1, width=24, heads=2, patch=3, step_width=24, quantiles=4, free=4, dropout=0.0
    )
    training = TrainingConfig(steps=400, batch=48, check_every=400, warm_up=20, learning_rate=6e-3)
    return Forecaster(shape, training).fit([led()], lookback=LOOKBACK, horizon=1)


def sums_to_one(found: Explanation) -> bool:
    groups = (found.experts, found.indicators, found.levels)
    sums = [*(sum(group.values()) for group in groups), sum(s.share for s in found.past)]
    return sums == pytest.approx([1.0] * 4)


def test_what_demand_was_planted_to_follow_ranks_first(learned: Forecaster) -> None:
    """In the mean of ten forecasts: that of a single one also depends on what its other readings happen to be."""
    indicators, past = dict.fromkeys(NAMES, 0.0), np.zeros(7)
    for rows in range(1200, 1400, 20):
        panel = led(seed=1).rows(0, rows)
        values = panel.values.copy()
        values[-LAG, 1] = 85.0 if rows % 40 else 15.0
        found = learned.explain(panel.replace(values=values), 1)
        assert sums_to_one(found)
        assert found.indicators["dead"] == 0.0
        indicators = {name: share + found.indicators[name] for name, share in indicators.items()}
        past += [s.share for s in found.past]
    assert max(indicators, key=lambda name: indicators[name]) == "orders"
    assert (found.past[int(past.argmax())].label, past.max() / 10 > 0.4) == ("row 3 back", True)


def test_slopes_say_the_same_as_hiding(learned: Forecaster) -> None:
    """How the stated mean follows each reading, nudged by a fifth of its spread, in the mean of ten windows."""
    panel, cells = led(seed=1).select(NAMES[:3]), LOOKBACK * 3
    nudges = np.eye(cells).reshape(cells, LOOKBACK, 3) * 0.2 * panel.values.std(axis=0)
    slopes = np.zeros(cells)
    for end in range(1200, 1400, 20):
        one = WindowBatch.of(panel, [end], LOOKBACK)
        every = replace(
            one, values=one.values + np.stack([0 * nudges[0], *nudges]), end_s=np.repeat(one.end_s, cells + 1)
        )
        mean = learned.predict(every, 1, samples=50, only=["demand"]).paths.mean(axis=(1, 2, 3))
        slopes += np.abs(mean[1:] - mean[0])
    assert divmod(int(slopes.argmax()), 3) == (LOOKBACK - LAG, NAMES.index("orders"))


def test_a_rule_that_reads_one_row_is_said_to(learned: Forecaster) -> None:
    panel = wavy(600)
    found = LastValue().fit([panel], lookback=24, horizon=2).explain(panel, 2)
    assert sums_to_one(found)
    assert found.experts == {"last_value": 1.0}
    assert found.indicators == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert found.levels == {1: 1.0, 2: 0.0}
    assert found.past[0].share == 1.0
    daily = SeasonalNaive().fit([panel], lookback=24, horizon=2).explain(panel, 2)
    assert {s.label: s.share for s in daily.past if s.share} == {"a day before": pytest.approx(1.0)}


def test_a_pools_experts_are_its_members_by_their_weights() -> None:
    panel = wavy(700)
    pool = Ensemble().fit([panel], lookback=48, horizon=3)
    found = pool.explain(panel, 3, "b")
    assert sums_to_one(found)
    assert found.experts == {name: pytest.approx(w[:, 1].mean()) for name, w in pool.weights.items()}
    assert pool.explain(panel, 3, "b") == found, "equal questions have equal answers"


def test_the_bundled_models_experts_are_where_its_mixture_points() -> None:
    panel = wavy(400)
    model = Forecaster.base()
    batch = model.predict(WindowBatch.of(panel, range(300, 330), 144, horizon=30), 30, samples=10)
    assert batch.experts is not None
    assert all(w.shape == (30, 30, 3) for w in batch.experts.values())
    assert sum(batch.experts.values()) == pytest.approx(np.ones((30, 30, 3)), abs=1e-5)
    one = batch[4].marginal("c")
    assert one.experts is not None
    assert one.experts["newest value"] == pytest.approx(batch.experts["newest value"][4][:, 2:])
    assert sums_to_one(model.explain(panel, 30))


def test_what_never_moves_is_moved_by_nothing() -> None:
    still = Panel(np.full((300, 1), 7.0), (Indicator("x"),), 0.0, 60.0)
    found = LastValue().fit([still], lookback=24, horizon=2).explain(still, 2)
    assert set(found.indicators.values()) == {0.0}
    assert "nothing" in found.sentence


def test_mistakes_are_named(learned: Forecaster) -> None:
    panel = led(200)
    with pytest.raises(DataError, match="no indicator 'order' to explain the forecast of; did you mean 'orders'"):
        learned.explain(panel, 1, "order")
    with pytest.raises(DataError, match="2 windows given; one forecast is explained at a time"):
        explain(learned, WindowBatch.of(panel, [50, 60], LOOKBACK, horizon=1), 1)
    with pytest.raises(DataError, match="dead is absent all through the window"):
        learned.explain(panel, 1, "dead")


def test_members_of_a_forecaster_share_its_weight() -> None:
    panel = wavy(300)
    shape = ModelConfig(lookback=24, horizon=2, width=16, heads=2, patch=6, step_width=16, quantiles=6, free=4)
    quick = TrainingConfig(steps=4, batch=16, check_every=4, warm_up=2, members=2)
    two = Forecaster(shape, quick).fit([panel], lookback=24, horizon=2)
    windows = WindowBatch.of(panel, [200], 24, horizon=2)
    both = two.predict(windows, 2, samples=5).experts
    alone = [Forecaster.of_networks([net]) for net in two.networks]
    for one in alone:
        one._stats = two._stats
    apart = [one.predict(windows, 2, samples=5).experts for one in alone]
    assert both is not None
    for name, weights in both.items():
        assert weights == pytest.approx(np.mean([a[name] for a in apart if a], axis=0), abs=1e-6)
