"""The forecaster as its users see it: shapes, units, seeds, absence, batching, horizons, files, learning."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forecasting import Forecaster, forecaster
from forecasting.base import LOOKBACK, ForecastModel, rows_read
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import ArtefactError, DataError
from forecasting.methods import create_method
from forecasting.panel import FloatArray, Indicator, Panel
from forecasting.windows import WindowBatch

SMALL = ModelConfig(lookback=24, horizon=4, width=16, heads=2, patch=6, step_width=16, quantiles=6, free=4)
QUICK = TrainingConfig(steps=40, batch=16, check_every=20, warm_up=5, update_steps=20)
LEVELS = (1, 2, 2, 3)


def panel(rows: int = 400, seed: int = 0, columns: int = 4) -> Panel:
    rng = np.random.default_rng(seed)
    day = 10 + 3 * np.sin(2 * np.pi * np.arange(rows) / 144)
    x = day[:, None] * np.array([1.0, 1e9, 0.1, 1e-3])[:columns] * rng.lognormal(0, 0.1, size=(rows, columns))
    return Panel(x, tuple(Indicator(f"x{i}", level=LEVELS[i]) for i in range(columns)), 0.0, 600.0, name=f"p{seed}")


def windows(p: Panel, ends: list[int] | range = range(300, 320), horizon: int = 4, lookback: int = 24) -> WindowBatch:
    return WindowBatch.of(p, ends, lookback, horizon=horizon)


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return Forecaster(SMALL, QUICK).fit([panel()], lookback=24, horizon=4)


def test_it_is_a_forecast_model_and_says_so() -> None:
    fresh = Forecaster()
    assert isinstance(fresh, ForecastModel)
    assert (fresh.name, fresh.version) == ("harmony", "untrained")


def test_paths_have_the_promised_shape_unit_and_origin(model: Forecaster) -> None:
    p = panel()
    batch = model.predict(windows(p), 4, samples=50)
    assert batch.paths.shape == (20, 50, 4, 4)
    assert batch.indicators == p.indicators
    assert np.array_equal(batch.origin_s, windows(p).end_s)
    assert batch.model == f"harmony {model.version}"
    centre = np.median(batch.paths, axis=(0, 1, 2))
    assert np.all(centre / np.median(p.values, axis=0) > 0.5)
    assert np.all(centre / np.median(p.values, axis=0) < 2.0)
    assert float(batch.paths.min()) >= 0.0


def test_equal_seeds_give_equal_paths_and_others_do_not(model: Forecaster) -> None:
    w = windows(panel())
    a, b, c = (model.predict(w, 4, samples=20, seed=s).paths for s in (3, 3, 4))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_windows_paths_do_not_depend_on_its_batch(model: Forecaster) -> None:
    p = panel()
    together = model.predict(windows(p), 4, samples=20).paths
    for i in (0, 7, 19):
        alone = model.predict(windows(p, [300 + i]), 4, samples=20).paths[0]
        assert np.allclose(alone, together[i], rtol=1e-4)


def test_only_returns_the_very_paths_of_the_full_forecast(model: Forecaster) -> None:
    w = windows(panel())
    full = model.predict(w, 4, samples=20)
    for only in (["x0"], ["x3"], ["x2", "x0"]):
        some = model.predict(w, 4, samples=20, only=only)
        assert [i.name for i in some.indicators] == only
        for k, name in enumerate(only):
            assert np.allclose(some.paths[..., k], full.paths[..., int(name[1])], rtol=1e-3)


def test_columns_may_come_in_any_order(model: Forecaster) -> None:
    p = panel()
    a = model.predict(windows(p), 4, samples=20).paths
    b = model.predict(windows(p.select(["x3", "x2", "x1", "x0"])), 4, samples=20)
    assert [i.name for i in b.indicators] == ["x3", "x2", "x1", "x0"]
    assert np.allclose(b.paths[..., 3], a[..., 0], rtol=1e-4)


def test_an_absent_indicator_has_absent_paths_and_spoils_no_other(model: Forecaster) -> None:
    p = panel()
    holes = p.values.copy()
    holes[:, 2] = np.nan
    holes[310:315, 0] = np.nan
    batch = model.predict(windows(p.replace(values=holes)), 4, samples=20)
    assert np.isnan(batch.paths[..., 2]).all()
    assert not np.isnan(batch.paths[..., [0, 1, 3]]).any()


def test_a_wholly_absent_window_gives_absent_paths(model: Forecaster) -> None:
    p = panel().replace(values=np.full((400, 4), np.nan))
    assert np.isnan(model.predict(windows(p), 4, samples=5).paths).all()


@pytest.mark.parametrize("horizon", [1, 3, 5, 11])
def test_any_horizon_is_served_beyond_the_trained_one_on_a_coarser_grid(model: Forecaster, horizon: int) -> None:
    batch = model.predict(windows(panel(), horizon=horizon), horizon, samples=10)
    assert batch.paths.shape == (20, 10, horizon, 4)
    assert batch.step_s == 600.0
    factor = -(-horizon // 4)
    if factor > 1:
        assert np.array_equal(batch.paths[:, :, 0], batch.paths[:, :, factor - 1])


@pytest.mark.parametrize("lookback", [2, 10, 60])
def test_any_lookback_and_step_are_served(model: Forecaster, lookback: int) -> None:
    p = replace(panel(), step_s=15.0, calendar=False)
    batch = model.predict(windows(p, lookback=lookback), 2, samples=10)
    assert np.isfinite(batch.paths).all()


def test_unknown_indicators_are_forecast_too(model: Forecaster) -> None:
    p = panel()
    named = tuple(Indicator(f"other{i}", level=3) for i in range(4))
    assert np.isfinite(model.predict(windows(p.replace(indicators=named)), 2, samples=10).paths).all()


def test_a_constant_indicator_is_forecast_as_itself() -> None:
    values = panel().values.copy()
    values[:, 3] = 68719476736.0
    p = panel().replace(values=values)
    fitted = Forecaster(SMALL, replace(QUICK, steps=10)).fit([p], lookback=24, horizon=1)
    assert np.all(fitted.predict(windows(p), 1, samples=10).paths[..., 3] == 68719476736.0)


def test_the_joint_density_is_a_density_in_the_indicators_units(model: Forecaster) -> None:
    p = panel()
    forecast = model.predict(windows(p, [300]), 2, samples=400, seed=1)[0]
    inside = [forecast.log_prob(path) for path in forecast.paths[:50]]
    assert np.isfinite(inside).all()
    assert np.mean(inside) > forecast.log_prob(p.values[301:303] * 3)
    part = p.values[301:303].copy()
    part[1, 2] = np.nan
    assert np.isfinite(forecast.log_prob(part))


def test_what_was_saved_forecasts_the_same_to_the_last_bit(model: Forecaster, tmp_path: Path) -> None:
    loaded = Forecaster.load(model.save(tmp_path / "m"))
    w = windows(panel())
    assert loaded.version == model.version
    assert np.array_equal(loaded.predict(w, 4, samples=10).paths, model.predict(w, 4, samples=10).paths)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no model folder or bundled model 'bsae'"):
        Forecaster.load("bsae")
    with pytest.raises(ArtefactError, match=r"model\.json is missing"):
        Forecaster.load(tmp_path)


def test_weights_of_another_shape_are_refused(model: Forecaster, tmp_path: Path) -> None:
    from forecasting.artefact import Artefact, load_artefact, save_artefact

    found = load_artefact(model.save(tmp_path / "m"))
    wrong = {**found.meta, "model": {**found.meta["model"], "width": 32}}
    save_artefact(tmp_path / "m", Artefact(found.tensors, wrong))
    with pytest.raises(ArtefactError, match=r"net0.identity.weight have the shape .*, the settings say") as caught:
        Forecaster.load(tmp_path / "m")
    assert "\n" not in str(caught.value)


BAD = {
    "no members": (lambda meta, _: meta.pop("members"), "members is None, expected 1 to 64"),
    "a truth value for a size": (lambda meta, _: meta["model"].update(width=True), "ModelConfig.width is True"),
    "a size beyond all": (lambda meta, _: meta["model"].update(horizon=10**9), "ModelConfig.horizon is 1000000000"),
    "a horizon that has no weights": (lambda meta, _: meta["model"].update(horizon=10**6), "net0.step have the shape"),
    "a name twice": (lambda meta, _: meta.update(names=["x0", "x0"]), "names holds one name twice"),
    "a spread of nothing": (
        lambda meta, _: meta["stats"]["x0"].update(spread=float("nan")),
        r"stats\['x0'\].spread is nan",
    ),
    "weights that are not numbers": (
        lambda _, tensors: tensors.update({"net0.place": tensors["net0.place"] * float("nan")}),
        "'net0.place' hold numbers that are not finite",
    ),
    "whole numbers": (lambda _, tensors: tensors.update({"net0.step": tensors["net0.step"].int()}), "torch.int32"),
    "weights that are gone": (lambda _, tensors: tensors.pop("net0.head.bias"), "net0.head.bias are missing"),
    "a stranger's weights": (
        lambda _, tensors: tensors.update({"net7.x": torch.ones(1)}),
        "none of the 1 members",
    ),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_bad_content_under_a_valid_checksum_is_named(model: Forecaster, tmp_path: Path, change: Any, said: str) -> None:
    from forecasting.artefact import Artefact, load_artefact, save_artefact

    found = load_artefact(model.save(tmp_path / "m"))
    meta, tensors = copy.deepcopy(dict(found.meta)), dict(found.tensors)
    change(meta, tensors)
    save_artefact(tmp_path / "m", Artefact(tensors, meta))
    with pytest.raises(ArtefactError, match=said) as caught:
        Forecaster.load(tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_mistakes_are_named(model: Forecaster) -> None:
    w = windows(panel())
    with pytest.raises(DataError, match="no indicator 'x9'"):
        model.predict(w, 1, only=["x9"])
    with pytest.raises(DataError, match="horizon 0"):
        model.predict(w, 0)
    with pytest.raises(DataError, match="knows nothing yet"):
        Forecaster().predict(w, 1)
    with pytest.raises(DataError, match="knows nothing yet"):
        Forecaster().update([panel()])
    with pytest.raises(DataError, match="nothing to save"):
        Forecaster().save("nowhere")
    with pytest.raises(DataError, match="no window to learn from"):
        Forecaster(SMALL, QUICK).fit([panel(5)], lookback=24, horizon=4)
    with pytest.raises(DataError, match="at least one panel"):
        Forecaster().fit([], lookback=24, horizon=4)


def test_fitting_leaves_torchs_generator_alone_and_repeats() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a = Forecaster(SMALL, replace(QUICK, steps=10)).fit([panel()], lookback=24, horizon=2, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    b = Forecaster(SMALL, replace(QUICK, steps=10)).fit([panel()], lookback=24, horizon=2, seed=7)
    assert a.version == b.version


def plateaus(rows: int, seed: int) -> FloatArray:
    return np.where(np.random.default_rng(seed).random(rows) < 0.3, 100.0, 20.0)


@pytest.mark.slow
def test_random_flips_between_plateaus_are_learned_as_such() -> None:
    p = Panel(plateaus(900, 0)[:, None], (Indicator("flips"),), 0.0, 60.0)
    fitted = Forecaster(SMALL, replace(QUICK, steps=120, batch=32)).fit([p.rows(0, 700)], lookback=24, horizon=1)
    paths = fitted.predict(windows(p, range(700, 890), horizon=1), 1, samples=200).paths[..., 0, 0]
    near = (np.abs(paths - 100) < 5) | (np.abs(paths - 20) < 5)
    assert near.mean() > 0.6
    assert 0.2 < (paths > 60).mean() < 0.4


@pytest.mark.slow
def test_intervals_of_white_noise_cover_what_they_say() -> None:
    x = np.random.default_rng(1).normal(50, 5, size=(1500, 1))
    p = Panel(x, (Indicator("x"),), 0.0, 60.0)
    fitted = Forecaster(SMALL, replace(QUICK, steps=120, batch=32)).fit([p.rows(0, 1000)], lookback=24, horizon=1)
    ends = range(1000, 1490)
    paths = fitted.predict(windows(p, ends, horizon=1), 1, samples=200).paths[:, :, 0, 0]
    low, high = np.quantile(paths, [0.1, 0.9], axis=1)
    truth = x[np.array(ends) + 1, 0]
    assert 0.72 < ((truth >= low) & (truth <= high)).mean() < 0.88


def test_an_update_keeps_what_is_known_and_learns_new_names(model: Forecaster) -> None:
    loaded = Forecaster.of_networks(model._nets, QUICK)
    fresh = panel(300, seed=5)
    named = fresh.replace(indicators=tuple(replace(i, name=f"y{i.name}") for i in fresh.indicators))
    loaded.update([named], seed=1)
    assert {"x0", "yx0"} <= set(loaded._nets[0].names)
    assert np.isfinite(loaded.predict(windows(named, range(200, 220)), 4, samples=10).paths).all()


def test_members_are_joined_into_one_distribution() -> None:
    told: list[tuple[int, int]] = []
    two = Forecaster(SMALL, replace(QUICK, steps=10, members=2)).fit(
        [panel()], lookback=24, horizon=2, progress=lambda done, total, _: told.append((done, total))
    )
    assert told == [(10, 20), (20, 20)], "progress is that of all members"
    assert np.isfinite(two.predict(windows(panel()), 2, samples=10).paths).all()


def test_threads_of_torch_are_left_as_they_were(model: Forecaster) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = model.predict(windows(panel()), 4, samples=10).paths
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert np.array_equal(model.predict(windows(panel()), 4, samples=10).paths, two)
    finally:
        torch.set_num_threads(before)


def test_it_says_how_much_it_reads_and_whoever_says_nothing_reads_the_usual(model: Forecaster) -> None:
    assert rows_read(model) == SMALL.lookback == 24
    rule = create_method("last_value")
    assert rows_read(rule) == LOOKBACK == rows_read(Forecaster.base())
    assert rows_read(rule.fit([panel()], lookback=30, horizon=2)) == 30


def test_long_windows_are_fewer_so_that_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = forecaster.examples_of
    monkeypatch.setattr(forecaster, "_MOST_VALUES", 4 * 24 * 50)
    monkeypatch.setattr(forecaster, "examples_of", lambda *a, **k: seen.append(k["limit"]) or whole(*a, **k))
    Forecaster(SMALL, replace(QUICK, steps=2)).fit([panel()], lookback=24, horizon=4)
    assert seen[0] == 50


@pytest.mark.parametrize(("rows", "judged"), [(80, 17), (60, 27), (40, 17)])
def test_a_model_is_not_judged_on_rows_that_are_there_as_history(
    rows: int, judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train = forecaster.train

    def spied(net: object, known: object, unseen: list[object], *args: object, **kwargs: object) -> object:
        seen.extend(unseen)
        return train(net, known, unseen, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(forecaster, "train", spied)
    # 60 rows of history, of which there may be no more than that: then it is half of what there is.
    Forecaster(SMALL, QUICK).fit([panel(200)], lookback=60, horizon=4, validation=[panel(rows, seed=1)])
    assert len(seen[0]) == judged


def test_a_bundled_name_is_that_model_whatever_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Forecaster.base().version
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert Forecaster.load("base").version == Forecaster.base().version == version
    with pytest.raises(ArtefactError, match=r"no model in base"):
        Forecaster.load("./base")
    with pytest.raises(ArtefactError, match=r"no model in base"):
        Forecaster.load(Path("base"))
