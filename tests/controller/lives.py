"""A service without a cluster: its settings, its past and its target are what a test says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from controller.observing.starts import Starts
from controller.observing.targets import TargetView
from controller.outputs.base import Acted
from controller.prometheus.client import Prometheus
from controller.prometheus.feed import Feed
from controller.prometheus.history import History
from controller.prometheus.states import FeedReason, FeedState, IndicatorState
from controller.resource.parsing import parse_autoscaler
from controller.service import Service
from forecasting.base import LOOKBACK
from forecasting.distribution import ForecastDistribution
from harmony.loop.state import ScalePlan
from tests.controller.resource.builders import autoscaler

T0 = 1_700_000_040.0  # on the grid of minutes
STEP_S = 60.0


def feed_of(service_settings: Any) -> Feed:
    history = History([q.indicator for q in service_settings.queries], service_settings.step_s, LOOKBACK)
    return Feed(Prometheus("http://127.0.0.1:9"), service_settings.queries, history)


def service(saved: object = None, annotations: dict[str, str] | None = None, **spec: Any) -> Service:
    """A GPUAutoscaler of 25 requests/s per replica, without a past."""
    quick = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    obj = autoscaler(annotations=annotations, **({"mode": "Full", "behavior": quick} | spec))
    settings = parse_autoscaler(obj)
    return Service(settings, feed_of(settings), interval_s=30.0, saved=saved)


def certain(at_s: float, demand: float, horizon: int = 24, step_s: float = STEP_S) -> ForecastDistribution:
    """A forecast that is sure of one demand."""
    made = autoscaler()["spec"]["indicators"][0]["name"]
    indicator = next(q.indicator for q in parse_autoscaler(autoscaler()).queries if q.indicator.name == made)
    return ForecastDistribution(np.full((50, horizon, 1), demand), (indicator,), at_s, step_s, "sure")


def turn(
    of: Service,
    now_s: float,
    demand: float,
    ordered: int,
    *,
    ready: int | None = None,
    starts: Starts | None = None,
    forecast: bool = True,
    conclude: bool = True,
    **view: Any,
) -> ScalePlan:
    """One turn with this demand read and this target seen; what was wanted is taken as applied."""
    if not math.isnan(demand):
        of.history.write(0, np.array([now_s // STEP_S * STEP_S]), np.array([demand]))
    name = of.settings.queries[0].indicator.name
    fresh = not math.isnan(demand)
    state = IndicatorState(name, FeedReason.FRESH if fresh else FeedReason.EMPTY, "" if fresh else "no series", 0.0)
    seen = starts or Starts(pods=ordered, ready=ordered if ready is None else ready)
    of.saw(
        TargetView(ordered=ordered, starts=seen, **view),
        FeedState(now_s, (state,), 0.0 if fresh else math.inf, fresh),
    )
    made = certain(now_s // STEP_S * STEP_S, demand) if forecast and fresh else None
    plan = of.consider(now_s, made)
    if plan is None:
        return ScalePlan(ordered, ordered, "nothing is decided")
    if conclude:
        of.conclude(plan.desired)
    return plan


def acted(of: Service, **changes: Any) -> Acted:
    return Acted(of.view.ordered, **changes)
