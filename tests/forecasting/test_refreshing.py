"""Learning on line: who is replaced, who is kept, who is left out, and that a restart changes nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forecasting.base import ForecastModel
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.window_quantiles import WindowQuantiles
from forecasting.distribution import ForecastBatch
from forecasting.errors import UsageError
from forecasting.fleet import FleetForecaster, Wanted
from forecasting.online import Online
from forecasting.panel import Indicator, Panel
from forecasting.recalibrated import Recalibrated
from forecasting.refreshing import QUICK, Outcome, Schedule, Standing, calibration_of, method_of, refreshed
from forecasting.windows import WindowBatch
from tests.forecasting.stand_ins import DEMAND, HOUR, START_S, STEP_S, Around, panel, walk, wave

HORIZON = 6


class Right(Around):
    """About 500 whatever was read, which is how `even` rows are."""

    def predict(self, windows: WindowBatch, *args: Any, **how: Any) -> ForecastBatch:
        return super().predict(dataclasses.replace(windows, values=np.full_like(windows.values, 500.0)), *args, **how)


class Raises(Around):
    name = "raises"

    def predict(self, *_: Any, **__: Any) -> ForecastBatch:
        raise RuntimeError("poison")


class Silent(Around):
    name = "silent"

    def predict(self, *args: Any, **how: Any) -> ForecastBatch:
        made = super().predict(*args, **how)
        made.paths[len(made.paths) // 2 :] = np.nan
        return made


def always(model: ForecastModel) -> Callable[[Panel, int, Callable[[], None]], ForecastModel]:
    return lambda rows, horizon, check: model


def once(rows: Panel, learn: Any, shared: Any = None, before: Standing | None = None, **changes: Any) -> Standing:
    clock = changes.pop("clock", lambda: 0.0)
    return refreshed(shared or Around(), before, 9, rows, HORIZON, learn, Schedule(**changes), clock)


# ---- one refresh --------------------------------------------------------------------------------------------------
def test_where_learning_anew_is_better_it_replaces() -> None:
    found = once(panel(wave()), method_of("ridge", Around()))
    assert (found.outcome, found.learned, found.number) == (Outcome.REPLACED, 9, 9)
    assert found.version.startswith("ridge 1+")
    assert "learned anew" in found.why


@pytest.mark.parametrize("name", QUICK)
def test_every_quick_method_learns_a_service_and_says_who_it_is(name: str) -> None:
    found = method_of(name, Around())(panel(wave()), HORIZON, lambda: None)
    assert found.name == name
    windows = WindowBatch.of(panel(wave()), [700, 799], 144, horizon=HORIZON)
    paths = found.predict(windows, HORIZON, samples=20, seed=0).paths
    assert paths.shape == (2, 20, HORIZON, 1)
    assert np.isfinite(paths).all()


def test_after_a_change_of_regime_the_newly_learned_one_replaces_the_old() -> None:
    """What was learned of a random walk gives way once a rhythm has come."""
    learn = method_of("ridge", Around())
    old = Standing(8, learn(panel(walk(800)), HORIZON, lambda: None), 8, Outcome.REPLACED, "", 0.0)
    found = once(panel(np.concatenate([walk(200), wave(1000)])), learn, before=old)
    assert found.outcome is Outcome.REPLACED
    assert found.version != old.version
    assert found.learned == 9


def test_where_learning_anew_is_worse_the_old_one_is_kept_and_said() -> None:
    good = Standing(8, Around(1.0), 8, Outcome.REPLACED, "", 0.0)
    found = once(panel(walk()), always(Around(60.0)), before=good)
    assert found.outcome is Outcome.KEPT
    assert found.model is good.model
    assert (found.learned, found.number) == (8, 9)
    new, before, shared = (float(part.split()[0]) for part in found.why.partition(": ")[2].split(", "))
    assert new > before
    assert shared > before


def test_a_little_better_is_not_enough() -> None:
    old = Standing(8, Around(1.0), 8, Outcome.REPLACED, "", 0.0)
    assert once(panel(walk()), always(Around(1.02)), before=old).outcome is Outcome.KEPT


def test_where_neither_is_as_good_as_the_shared_model_it_serves_again() -> None:
    old = Standing(8, Around(60.0), 8, Outcome.REPLACED, "", 0.0)
    found = once(panel(walk()), always(Around(80.0)), shared=Around(1.0), before=old)
    assert (found.outcome, found.model, found.version, found.learned) == (Outcome.REVERTED, None, "", -1)


@pytest.mark.parametrize(
    ("learned", "why"),
    [(Raises(), "RuntimeError: poison"), (Silent(), "ValueError: silent has no number for 50% of the forecasts")],
)
def test_a_challenger_that_raises_or_has_no_number_is_left_out_and_said(learned: Any, why: str) -> None:
    old = Standing(8, Around(1.0), 8, Outcome.REPLACED, "", 0.0)
    found = once(panel(walk()), always(learned), before=old)
    assert (found.outcome, found.model, found.why) == (Outcome.FAILED, old.model, why)


def test_a_challenger_that_cannot_learn_is_left_out_and_said() -> None:
    def refuse(rows: Panel, horizon: int, check: object) -> ForecastModel:
        raise np.linalg.LinAlgError("singular")

    found = once(panel(walk()), refuse)
    assert (found.outcome, found.model, found.why) == (Outcome.FAILED, None, "LinAlgError: singular")


@pytest.mark.parametrize("broken", [Raises(), Silent()])
def test_an_old_one_that_breaks_is_out_of_the_race(broken: Any) -> None:
    old = Standing(8, broken, 8, Outcome.REPLACED, "", 0.0)
    assert once(panel(walk()), always(Around(1.0)), before=old).outcome is Outcome.REPLACED
    assert once(panel(walk()), always(Around(60.0)), before=old).outcome is Outcome.REVERTED


def test_what_is_not_done_in_time_leaves_the_old_one() -> None:
    old = Standing(8, Around(60.0), 8, Outcome.REPLACED, "", 0.0)
    ticks = iter(range(1000))
    found = once(panel(wave()), method_of("ridge", Around()), before=old, budget_s=3.0, clock=lambda: 2.0 * next(ticks))
    assert (found.outcome, found.model) == (Outcome.LATE, old.model)
    assert found.why == "not done after 3 s"
    assert found.seconds > 3.0


@pytest.mark.parametrize("rows", [0, 1, 200, 340])
def test_too_few_rows_are_not_learned(rows: int) -> None:
    assert once(panel(walk(rows)), always(Around(1.0))).outcome is Outcome.TOO_FEW


def test_nobody_has_learned_what_is_held_out() -> None:
    seen: list[Panel] = []

    def learn(rows: Panel, horizon: int, check: object) -> ForecastModel:
        seen.append(rows)
        return Around(1.0)

    once(panel(walk(1000)), learn)
    assert [len(p) for p in seen] == [850]


def test_a_calibration_is_kept_only_where_it_helps() -> None:
    wide, right = Around(40.0, offset=10.0), Right()
    found = once(panel(walk()), calibration_of(wide), shared=wide)
    assert found.outcome is Outcome.REPLACED
    assert found.version.startswith("around 40+10~")
    even = panel(500 + np.random.default_rng(2).uniform(-10.0, 10.0, 1200))
    assert once(even, calibration_of(right), shared=right).outcome is Outcome.KEPT


def test_methods_that_take_longer_than_a_budget_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be learned on line"):
        method_of("harmony", Around())


@pytest.mark.parametrize("wrong", [{"every_s": 5.0}, {"every_s": math.nan}, {"budget_s": 0.0}, {"held_out": 1.0}])
def test_impossible_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Schedule(**wrong)  # type: ignore[arg-type]


# ---- a model of its own -------------------------------------------------------------------------------------------
def test_recalibrated_forecasts_of_other_lengths_and_indicators() -> None:
    rows, model = panel(walk()), Around(40.0)
    moved = Recalibrated.of(model, rows, HORIZON)
    both = Panel(np.column_stack([rows.values, rows.values]), (DEMAND, Indicator("b", level=2)), START_S, STEP_S)
    windows = WindowBatch.of(both, [900, 1000], 144, horizon=30)
    for horizon in (1, HORIZON, 30):
        found, plain = (m.predict(windows, horizon, samples=50) for m in (moved, model))
        np.testing.assert_array_equal(found.paths[..., 1], plain.paths[..., 1])
        assert (np.ptp(found.paths[..., 0], axis=1) <= np.ptp(plain.paths[..., 0], axis=1) + 1e-9).all()
        assert found.paths[..., 0].std() < plain.paths[..., 0].std()
        order = [np.argsort(p.paths[0, :, 0, 0]) for p in (found, plain)]
        np.testing.assert_array_equal(*order)  # paths hang together as the model's do
    assert found.model == f"around 40+0~{moved.version.partition('~')[2]}"


def test_a_fleet_forecasts_by_what_each_has_and_says_who_was_left_out() -> None:
    rows = panel(walk())
    shared = Around()
    own: dict[str, Any] = {
        "moved": Recalibrated.of(shared, rows, HORIZON),
        "ridge": method_of("ridge", shared)(rows, HORIZON, lambda: None),
        "raises": Raises(),
        "silent": Silent(),
        "shared": None,
    }
    fleet = FleetForecaster(shared, samples=20, own=lambda key, now_s: own[key])
    found = fleet.forecast([Wanted(key, rows, HORIZON) for key in own], rows.end_s)
    assert set(found.made) == set(own)
    assert found.failed == {}
    assert found.left_out == {"raises": "raises: RuntimeError: poison", "silent": "silent: no number"}
    makers = {key: made.model.split()[0] for key, made in found.made.items()}
    assert makers == {"moved": "around", "ridge": "ridge", "raises": "around", "silent": "around", "shared": "around"}
    assert "~" in found.made["moved"].model
    assert found.made["raises"].model == found.made["shared"].model


def test_a_calibration_that_breaks_costs_its_own_service_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, shared = panel(walk()), Around()
    broken = Recalibrated.of(shared, rows, HORIZON)
    monkeypatch.setattr(broken, "applied_to", poisoned)
    own: dict[str, Any] = {"broken": broken, "other": None}
    fleet = FleetForecaster(shared, samples=20, own=lambda key, now_s: own[key])
    found = fleet.forecast([Wanted(key, rows, HORIZON) for key in own], rows.end_s)
    assert found.left_out == {"broken": "around: RuntimeError: poison"}
    assert found.made["broken"].model == found.made["other"].model


def poisoned(*_: object) -> Any:
    raise RuntimeError("poison")


def test_a_slim_method_forecasts_and_learns_no_more() -> None:
    rows = panel(np.concatenate([wave(), wave()]))
    whole = Ridge().fit([rows], lookback=144, horizon=HORIZON)
    version = whole.version
    windows = WindowBatch.of(rows, [2000], 144, horizon=HORIZON)
    before = whole.predict(windows, HORIZON).paths
    slim = whole.slim()
    assert slim.version != version
    assert slim.slim().version == slim.version
    np.testing.assert_allclose(slim.predict(windows, HORIZON).paths.mean(axis=1), before.mean(axis=1), rtol=0.02)
    with pytest.raises(UsageError, match="fit it anew"):
        slim.update([rows])
    again = slim.fit([rows], lookback=144, horizon=HORIZON).update([rows])
    assert again.version != version
    with pytest.raises(UsageError):
        WindowQuantiles().slim()


# ---- many services in time ----------------------------------------------------------------------------------------
def online(method: str = "ridge", **changes: Any) -> Online[str]:
    return Online(Around(), method, Schedule(**({"budget_s": math.inf} | changes)), lambda: 0.0)


def lived(service: Online[str], source: Panel, until_s: float, since_s: float = START_S) -> list[str]:
    """Versions in force hour by hour, as a world would drive it."""
    out = []
    for now_s in np.arange(since_s, until_s + 1.0, HOUR):
        while (number := service.due("chat", now_s)) is not None:
            service.refresh("chat", source, number, HORIZON)
        model = service.model("chat", now_s)
        out.append("" if model is None else f"{model.name} {model.version}")
    return out


def test_what_a_period_taught_is_in_force_one_period_later() -> None:
    source, service = panel(wave()), online()
    end_s = START_S + 60 * HOUR
    versions = lived(service, source, end_s)
    learned = [k for k, v in enumerate(versions) if v]
    enough = next(
        k
        for k in range(60)
        if once(source.rows(0, k * 12 + 1), method_of("ridge", Around())).outcome is Outcome.REPLACED
    )
    assert learned[0] == enough + 1


def test_a_restart_goes_on_with_what_was_in_force() -> None:
    source, end_s = panel(wave()), START_S + 60 * HOUR
    whole = online()
    versions = lived(whole, source, end_s)
    saved = whole.to_json("chat")
    assert saved is not None
    newest = whole.standing("chat")
    assert newest is not None
    assert newest.learned < newest.number, "an older one than the newest is in force"
    after = online()
    after.restore("chat", saved)
    assert lived(after, source, end_s, since_s=end_s)[-1] == versions[-1]
    assert after.to_json("chat") == saved


def test_without_what_was_saved_it_is_learned_anew_at_once() -> None:
    source, end_s = panel(wave()), START_S + 60 * HOUR
    after = online()
    assert lived(after, source, end_s, since_s=end_s)[-1].startswith("ridge ")


GARBAGE: tuple[object, ...] = (
    None,
    3,
    {},
    {"untilS": "x", "version": "a"},
    {"untilS": True, "version": "a"},
    {"untilS": math.nan, "version": "a"},
    {"untilS": START_S + 7, "version": "a"},
    {"untilS": 1e300, "version": "a"},
    {"untilS": START_S, "version": ""},
)


@pytest.mark.parametrize("saved", GARBAGE)
def test_whatever_was_saved_it_begins(saved: object) -> None:
    source, after = panel(wave()), online()
    after.restore("chat", saved)
    assert lived(after, source, START_S + 60 * HOUR, since_s=START_S + 60 * HOUR)[-1].startswith("ridge ")


def test_what_was_saved_of_other_rows_is_judged_like_any_other() -> None:
    source, after, end_s = panel(wave()), online(), START_S + 60 * HOUR
    after.restore("chat", {"untilS": end_s - 5 * HOUR, "version": "ridge 1+000000000000"})
    number = after.due("chat", end_s)
    assert number == round((end_s - 5 * HOUR) / HOUR)
    assert after.refresh("chat", source, number, HORIZON).outcome is Outcome.REPLACED


def test_who_is_gone_is_forgotten() -> None:
    source, service, end_s = panel(wave()), online(), START_S + 60 * HOUR
    lived(service, source, end_s, since_s=end_s)
    service.forget("chat")
    assert (service.standing("chat"), service.model("chat", end_s), service.to_json("chat")) == (None, None, None)


def test_who_is_late_is_in_force_from_then_on() -> None:
    source, service, end_s = panel(wave()), online(), START_S + 60 * HOUR
    number = service.due("chat", end_s)
    assert number is not None
    service.take("chat", service.learn("chat", number, service.known(source, number), HORIZON), end_s + 100.0)
    assert service.model("chat", end_s) is None
    assert service.model("chat", end_s + 100.0) is not None
