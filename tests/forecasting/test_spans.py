"""A window per head of a trained forecaster: measured, chosen and judged, written by the command, used by the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forecasting import Forecaster
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import DataError, UsageError
from forecasting.panel import Indicator, Panel
from forecasting.spans import _captured, _influence, plan_windows
from forecasting.training import losses
from harmony.cli.main import run

SMALL = ModelConfig(
    lookback=96,
    horizon=3,
    width=16,
    heads=4,
    patch=2,
    step_width=16,
    quantiles=6,
    free=4,
    dropout=0.0,
    temporal_attention="sdpa",
    temporal_mixers=2,
)
QUICK = TrainingConfig(steps=20, batch=16, check_every=10, warm_up=5)


def panel(rows: int = 500) -> Panel:
    rng = np.random.default_rng(0)
    day = 10 + 3 * np.sin(2 * np.pi * np.arange(rows) / 48)
    x = day[:, None] * np.array([1.0, 0.1]) * rng.lognormal(0, 0.1, size=(rows, 2))
    return Panel(x, (Indicator("rps", level=1), Indicator("cpu", level=2)), 0.0, 300.0)


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return Forecaster(SMALL, QUICK).fit([panel()], lookback=SMALL.lookback, horizon=SMALL.horizon)


def test_a_plan_keeps_its_density_and_is_judged_where_nothing_was_measured(model: Forecaster) -> None:
    before = {name: x.clone() for name, x in model.networks[0].state_dict().items()}
    plan = plan_windows(model, panel(), windows=16)
    assert set(plan.profiled) == {24, 48}
    assert set(plan.densities) == {24, 48, 96}
    assert all(x <= 0.5 + 1e-9 for x in plan.densities.values())
    assert plan.judged.rows == 96
    assert 0 < plan.judged.windows <= 16
    assert plan.plans >= 1
    # A span per head, of which a layer has two at most.
    assert len(plan.options["alpha"]) == len(plan.options["beta"]) == SMALL.heads
    assert len(set(zip(plan.options["alpha"], plan.options["beta"], strict=True))) <= 2
    # Measuring and judging leave the model as it was.
    assert all(mixer.attend.core.method == "sdpa" for mixer in model.networks[0].mix)  # type: ignore[union-attr]
    assert all(torch.equal(x, before[name]) for name, x in model.networks[0].state_dict().items())
    assert plan_windows(model, panel(), windows=16) == plan
    windowed = model.with_temporal_attention("elastic_window", plan.options)
    got, dense = (m.predict(panel(), 3, samples=50, seed=1).paths for m in (windowed, model))
    assert got.shape == dense.shape
    assert not np.array_equal(got, dense)


def test_windows_that_hide_nothing_are_the_dense_model(model: Forecaster) -> None:
    everything = model.with_temporal_attention("elastic_window", {"alpha": 0.0, "beta": 1.0, "block": 1})
    got, dense = (m.predict(panel(), 3, samples=50, seed=1).paths for m in (everything, model))
    np.testing.assert_allclose(got, dense, rtol=1e-4)


def test_influence_is_the_change_of_the_loss_when_weights_are_taken_away(model: Forecaster) -> None:
    net = model.networks[0]
    examples = model.inputs_of(panel(), lookback=24, first=24, limit=4)
    assert examples is not None
    found = _influence(net, examples, TrainingConfig(), 3)
    assert found.shape == (SMALL.heads, 4, 4)
    assert bool((found >= 0).all())
    assert float(found.sum()) > 0
    with _captured(net) as seen:
        losses(net, _flow(), examples)
    assert len(seen) == SMALL.temporal_mixers
    q, k, v, _, out = seen[0]
    assert q.shape == k.shape == v.shape == out.shape == (8, SMALL.heads, 12, 4)


def _flow() -> object:
    from forecasting.flow import JointFlow

    return JointFlow()


def test_what_does_not_fit_is_refused(model: Forecaster) -> None:
    with pytest.raises(UsageError, match="the model has no attention among rows"):
        plan_windows(Forecaster.base(), panel())
    other = Forecaster.of_networks(model.with_temporal_attention("elastic_window", {}).networks)
    with pytest.raises(UsageError, match="the model has elastic_window"):
        plan_windows(other, panel())
    for lookbacks in ([96], [1, 48], [0]):
        with pytest.raises(UsageError, match="judged at 96: expected at least the 2 rows of a token"):
            plan_windows(model, panel(), lookbacks=lookbacks)
    with pytest.raises(UsageError, match=r"density 0\.01: no plan has a mean density"):
        plan_windows(model, panel(), density=0.01, windows=4)
    with pytest.raises(UsageError, match="validation 2"):
        plan_windows(model, panel(), validation=2.0)
    with pytest.raises(DataError, match="hold no window"):
        plan_windows(model, panel(6), windows=4)
    with pytest.raises(UsageError, match="has weights of its own"):
        model.with_temporal_attention("wersa", {})
    plain = replace(SMALL, temporal_attention=None)
    assert plain.temporal_attention is None


@pytest.mark.slow
def test_the_command_writes_a_plan_and_a_model_that_uses_it(
    model: Forecaster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "dense")
    rows = panel()
    lines = ["time,rps,cpu", *(f"{300 * n},{a:.6f},{b:.6f}" for n, (a, b) in enumerate(rows.values))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    words = ["windows", str(tmp_path / "dense"), str(tmp_path / "rows.csv"), "--demand", "rps", "--windows", "8"]
    out = tmp_path / "plan.json"
    assert run([*words, "--out", str(out), "--save-model", str(tmp_path / "windowed"), "--lookbacks", "24,48"]) == 0
    said = capsys.readouterr().out
    assert "a window per head" in said
    assert "on 8 windows of 96 rows that were not measured" in said
    plan = json.loads(out.read_text())
    assert plan["method"] == "elastic_window"
    assert plan["version"] == model.version
    assert set(plan["profiled"]) == {"24", "48"}
    windowed = Forecaster.load(tmp_path / "windowed")
    assert windowed.config.temporal_attention == "elastic_window"
    assert windowed.config.temporal_options == plan["options"]
    assert run([*words, "--out", str(out), "--lookbacks", "x"]) == 2
    assert "--lookbacks 'x': expected whole numbers of rows such as 96,192" in capsys.readouterr().err
    assert run(["windows", "base", str(tmp_path / "rows.csv"), "--demand", "rps", "--out", str(out)]) == 2
    assert "windows per head are chosen for temporal_attention 'sdpa'" in capsys.readouterr().err
