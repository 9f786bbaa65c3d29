from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from forecasting.base import ForecastModel, rows_read
from forecasting.distribution import ForecastDistribution
from forecasting.door import FromReadings
from forecasting.errors import DataError, UsageError
from forecasting.methods import BENCHMARK, DEFAULT_METHOD, OWN_EXPERTS, OWN_METHODS, create_method, method_names
from forecasting.windows import WindowBatch
from tests.forecasting.builders import wavy


def test_the_products_own_method_comes_first() -> None:
    assert method_names()[0] == DEFAULT_METHOD == "harmony"


def installed() -> list[str]:
    names = []
    for name in method_names():
        try:
            create_method(name)
        except UsageError:  # its extra is not installed; tests/forecasting/test_baselines.py says so
            continue
        names.append(name)
    return names


@pytest.mark.parametrize("name", [n for n in installed() if n != "harmony"])
def test_every_method_is_fresh_and_answers_to_its_name(name: str) -> None:
    method = create_method(name)
    assert isinstance(method, ForecastModel)
    assert method.name == name
    assert create_method(name) is not method


@pytest.mark.parametrize("name", ["harmony_base", "last_value", "ridge", "ensemble"])
def test_every_method_forecasts_from_windows_panels_and_frames_alike(name: str) -> None:
    panel = wavy(300)
    method = create_method(name).fit([panel], lookback=24, horizon=3)
    assert isinstance(method, FromReadings)
    window = WindowBatch.of(panel, [len(panel) - 1], rows_read(method), horizon=3)
    expected = method.predict(window, 3, samples=20, seed=4)[0]
    dates = pd.to_datetime(panel.times_s, unit="s")
    wide = pd.DataFrame({n: panel.column(n) for n in panel.names}).assign(ds=dates)
    found = [method.predict(source, 3, samples=20, seed=4) for source in (panel, wide)]
    long = method.predict(wide.assign(unique_id="a"), 3, samples=20, seed=4)
    assert isinstance(long, dict)
    for one in (*found, long["a"]):
        assert isinstance(one, ForecastDistribution)
        np.testing.assert_array_equal(one.paths, expected.paths)
    with pytest.raises(DataError, match="a list cannot be forecast from; expected a Panel"):
        method.predict([panel], 3)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match=r"no forecasting method 'rigde'; did you mean 'ridge'"):
        create_method("rigde")


def test_the_products_own_are_known_methods() -> None:
    assert set(method_names()) > OWN_METHODS


def test_every_member_of_the_ensemble_is_a_method_and_those_made_for_it_are_no_rivals() -> None:
    from forecasting.ensemble import Ensemble

    panel = wavy(400)
    members = Ensemble().fit([panel], lookback=24, horizon=2).weights.keys()
    assert OWN_EXPERTS < members <= set(method_names())
    assert BENCHMARK in members - OWN_METHODS


def test_the_bundled_model_forecasts_as_it_comes_whatever_it_is_given_to_learn() -> None:
    from forecasting.forecaster import Forecaster

    panel = wavy(200)
    windows = WindowBatch.of(panel, [150, 199], 24, horizon=3)
    fitted = create_method("harmony_base").fit([panel], lookback=24, horizon=3).update([panel])
    base = Forecaster.base()
    np.testing.assert_array_equal(
        fitted.predict(windows, 3, samples=10, seed=1).paths, base.predict(windows, 3, samples=10, seed=1).paths
    )
    assert fitted.version == base.version


@pytest.mark.long
def test_baselines_and_scores_import_no_torch() -> None:
    code = (
        "import sys, scoringrules, forecasting.evaluation, forecasting.methods as m;"
        "deep = m.OWN_METHODS - m.OWN_EXPERTS;"
        "[m.create_method(n) for n in m.method_names() if n not in deep and n not in sys.argv];"
        "sys.exit('torch' in sys.modules)"
    )
    others = {"auto_ets", "auto_arima", "flair", "fracast", "patch_transformer"}  # of an extra; some are networks
    assert subprocess.run([sys.executable, "-c", code, *others], check=False).returncode == 0


def test_the_promised_names_are_what_they_say_and_stay_so() -> None:
    import forecasting

    for _ in range(2):
        from forecasting import ForecastDistribution, Indicator, Panel, evaluate

        assert callable(evaluate)
        assert all(isinstance(c, type) for c in (ForecastDistribution, Indicator, Panel))
    with pytest.raises(AttributeError, match="no attribute 'gone'"):
        forecasting.gone  # noqa: B018
