"""`Inputs`: everything that a decision was made of, as one blob, so that it can be made again bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray, Indicator
from harmony.decision.risk import replicas_needed
from harmony.decision.rule import lead_window
from harmony.journal.packing import pack, unpack
from harmony.model.capacity import Capacity
from harmony.model.memory import TurnMemory
from harmony.model.observation import Observation
from harmony.model.record import Record
from harmony.schema.exact import jsonable, restored

__all__ = ["Inputs", "capacity_header", "decode_forecast", "decode_inputs", "encode_forecast", "encode_inputs", "whole"]

WHOLE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What `decode_inputs` gives besides the settings, which stand in the decision's own row.

    `capacity` has its weights; `forecast` is the demand's alone, over the decision's window; `rounded` says that its
    paths are kept in single precision (see `encode_inputs`).
    """

    capacity: Capacity
    before: TurnMemory
    forecast: ForecastDistribution | None
    rounded: bool
    bound_samples: tuple[tuple[float, bool], ...]
    failed_s: tuple[float, ...]
    has_memory: bool


def encode_inputs(record: Record) -> bytes:
    """The inputs of a turn, 1 to 15 kB.

    Of the forecast only the demand's paths over the decision's window matter. They are kept in single precision
    wherever that provably changes nothing: a decision depends on paths through the whole replicas that each step
    needs, so if these are the same for the rounded paths, every count, probability and cost is the same to the last
    bit; quantiles are paths' own values, so those of the rounded paths are the rounded quantiles. Otherwise (a value
    that stands within rounding of a whole number of replicas) they are kept in double precision.
    """
    seen = record.observation
    header: dict[str, Any] = {
        "capacity": capacity_header(seen.capacity),
        "before": record.before,
        "bound_samples": record.outcome.bound_samples,
        "failed_s": record.outcome.failed_s,
        "has_memory": seen.memory is not None,
    }
    arrays: dict[str, Any] = {}
    if seen.capacity.weights:
        arrays["weights"] = np.asarray(seen.capacity.weights)
    forecast = _of_demand(seen)
    if forecast is not None:
        paths = forecast.paths[:, : lead_window(seen), 0]
        header["forecast"] = _about(forecast)
        arrays["paths"] = rounded if (rounded := _rounded(paths, seen)) is not None else paths
    return pack(header, arrays)


def decode_inputs(blob: bytes) -> Inputs:
    """What `encode_inputs` wrote; `DataError` if it is damaged."""
    header, arrays = unpack(blob)
    weights = tuple(arrays["weights"].tolist()) if "weights" in arrays else ()
    paths = arrays.get("paths")
    forecast = None
    if paths is not None:
        forecast = _distribution(header["forecast"], paths[:, :, None])
    return Inputs(
        capacity=restored(Capacity, header["capacity"] | {"weights": weights}),
        before=restored(TurnMemory, header["before"]),
        forecast=forecast,
        rounded=paths is not None and paths.dtype == np.float32,
        bound_samples=restored(tuple[tuple[float, bool], ...], header["bound_samples"]),
        failed_s=restored(tuple[float, ...], header["failed_s"]),
        has_memory=bool(header["has_memory"]),
    )


def encode_forecast(forecast: ForecastDistribution) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole forecast as header and arrays for `pack`; its density is left out."""
    experts = {name: np.asarray(weights).tolist() for name, weights in (forecast.experts or {}).items()}
    return _about(forecast) | ({"experts": experts} if experts else {}), {"forecast": forecast.paths}


def decode_forecast(header: dict[str, Any], arrays: dict[str, Any]) -> ForecastDistribution:
    """What `encode_forecast` wrote."""
    return _distribution(header, arrays["forecast"])


def capacity_header(capacity: Capacity) -> dict[str, Any]:
    """A capacity without its weights, which are an array of their own."""
    names = ("median", "sigma", "prior_median", "prior_sigma")
    return {name: jsonable(getattr(capacity, name)) for name in names}


def whole(value: int) -> int:
    """An integer that 64 bits hold: the nearest."""
    return min(max(int(value), -WHOLE_MAX), WHOLE_MAX)


def _about(forecast: ForecastDistribution) -> dict[str, Any]:
    return {
        "indicators": forecast.indicators,
        "origin_s": forecast.origin_s,
        "step_s": forecast.step_s,
        "model": forecast.model,
    }


def _distribution(header: dict[str, Any], paths: FloatArray) -> ForecastDistribution:
    return ForecastDistribution(
        paths=np.asarray(paths, dtype=np.float64),
        indicators=tuple(restored(Indicator, i) for i in header["indicators"]),
        origin_s=float(header["origin_s"]),
        step_s=float(header["step_s"]),
        model=header["model"],
        experts={name: np.array(weights) for name, weights in header.get("experts", {}).items()} or None,
    )


def _of_demand(seen: Observation) -> ForecastDistribution | None:
    if seen.forecast is None:
        return None
    return seen.forecast.marginal(seen.objective.demand or seen.forecast.names[0])


def _rounded(paths: FloatArray, seen: Observation) -> npt.NDArray[np.float32] | None:
    """(samples, steps) the paths in single precision; None where a decision could tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = paths.astype(np.float32)
        if not np.array_equal(np.isfinite(single), np.isfinite(paths)):
            return None
        per_replica = seen.capacity.draws(paths.shape[0])[:, None]
        exact = replicas_needed(np.maximum(paths, 0.0), per_replica)
        same = np.array_equal(
            exact, replicas_needed(np.maximum(single.astype(np.float64), 0.0), per_replica), equal_nan=True
        )
    return single if same else None
