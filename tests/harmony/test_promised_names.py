"""What completion offers after `import harmony` and its sisters is what is promised, and each name is there."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PROMISED = {
    "kernels": {"attention", "available"},
    "forecasting": {"Forecaster", "ForecastDistribution", "evaluate"},
    "harmony": {"Objective", "Observation", "decide"},
    "simulator": {"load_trace", "replay"},
}


@pytest.mark.parametrize("package", PROMISED)
def test_completion_shows_the_promised_names_alone(package: str) -> None:
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    assert set(module.__all__) >= PROMISED[package]
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_frames_are_read_without_the_libraries_that_make_them() -> None:
    code = "import forecasting.frames, harmony, sys; assert not {'pandas', 'polars', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
