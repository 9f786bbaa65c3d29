"""`Metrics`: one method per event of the controller; the registry, the names and the labels live behind it."""

from __future__ import annotations

import functools
import gzip
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from harmony.decision.agreement import Judgement
from harmony.decision.bill import bill_per_hour, idle_per_hour
from harmony.metrics import catalogue as names
from harmony.metrics.catalogue import Definition, limiter
from harmony.metrics.series import ServiceName, ServiceSeries, Slot

if TYPE_CHECKING:
    from harmony.decision.agreement import Agreement
    from harmony.model.capacity import Capacity
    from harmony.model.lead_time import LeadTime
    from harmony.model.observation import Observation
    from harmony.model.record import Record

__all__ = ["Metrics"]

NAN = float("nan")
Z_95 = 1.6448536269514722  # standard normal quantile at 95 %


class Metrics:
    """All metrics of one process: those of the process in a registry of their own, those of services beside it.

    Numbers that are absent are NaN (or None) and take their series away: a dashboard shows a gap, never a zero. A
    service's series live until `forget`.
    """

    def __init__(self, version: str = "", *, process: bool = True) -> None:
        """Register everything once; ``process`` adds memory, CPU and interpreter facts of this process."""
        self.registry = CollectorRegistry()
        self._services = ServiceSeries()
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._tick_duration = Histogram(**self._named(names.TICK_DURATION), buckets=names.TICK_BUCKETS_S)
        self._ticks = Counter(**self._named(names.TICKS))
        self._overruns = Counter(**self._named(names.OVERRUNS))
        self._kube_requests = Counter(**self._named(names.KUBE_REQUESTS))
        self._errors = Counter(**self._named(names.ERRORS))
        self._refreshes = Counter(**self._named(names.REFRESHES))
        self._refresh_seconds = Counter(**self._named(names.REFRESH_SECONDS))
        self._leader = Gauge(**self._named(names.LEADER))
        self._keda_requests = Counter(**self._named(names.KEDA_REQUESTS))
        self._config = Info(**self._named(names.CONFIG))
        Info(**self._named(names.BUILD)).info({"version": version})
        self._last_tick: Gauge | None = None  # made by the first tick: a zero here would be the year 1970

    def _named(self, definition: Definition) -> dict[str, Any]:
        """Constructor arguments of a library metric; it adds `_info` and `_total` itself."""
        return {
            "name": definition.name.removesuffix("_info"),
            "documentation": definition.help,
            "labelnames": () if definition.type == "info" else definition.labels,
            "registry": self.registry,
        }

    # one service -----------------------------------------------------------------------------------------------

    def observe_mode(self, key: ServiceName, granted: str, effective: str) -> None:
        """The mode that the user granted, and the one in effect after a step back."""
        self._services.set_mode(key, str(granted), str(effective))

    def observe_replicas(self, key: ServiceName, current: float, ready: float, maximum: float = NAN) -> None:
        """What the scale target said, also when nothing could be decided; NaN for what is not known."""
        values: dict[Slot, float] = {
            ("harmony_current_replicas", ()): float(current),
            ("harmony_ready_replicas", ()): float(ready),
            ("harmony_max_replicas", ()): float(maximum),
        }
        self._services.set(key, values)

    def observe_decision(
        self,
        key: ServiceName,
        record: Record,
        *,
        recommended: int | None = None,
        desired: int | None = None,
        floor: int | None = None,
        realized: float = NAN,
        held_by: str = "",
    ) -> None:
        """One turn of the loop.

        ``recommended`` is what full authority would set (default: the decision's count), ``desired`` what is
        set (default: what the target accepted), ``floor`` the bound held for another autoscaler, ``realized`` the
        share of violated steps so far, ``held_by`` what kept the count from the recommendation (mode, pause).
        """
        seen, decision = record.observation, record.decision
        wanted = decision.replicas if recommended is None else recommended
        ordered = record.applied if desired is None else desired
        values: dict[Slot, float] = {
            ("harmony_current_replicas", ()): float(seen.ordered),
            ("harmony_ready_replicas", ()): float(seen.ready),
            ("harmony_max_replicas", ()): float(seen.objective.max_replicas),
            ("harmony_recommended_replicas", ()): float(wanted),
            ("harmony_desired_replicas", ()): float(ordered),
            ("harmony_floor_replicas", ()): NAN if floor is None else float(floor),
            ("harmony_violation_probability", ()): decision.violation_probability,
            ("harmony_promised_violation_probability", ()): seen.objective.epsilon,
            ("harmony_realized_violation_ratio", ()): realized,
            ("harmony_error_budget_left_ratio", ()): decision.budget_left,
            ("harmony_error_budget_burn_rate", ()): decision.burn_rate,
            ("harmony_error_budget_price", ()): decision.price,
            ("harmony_demand", ()): seen.demand,
            ("harmony_expected_cost_per_hour", ()): decision.expected_cost,
        }
        lead = _lead_quantiles(seen.lead_time)
        steps = max(1, math.ceil(round(lead[-1] / seen.step_s, 9)))
        for level in names.QUANTILES:
            path = decision.quantiles.get(float(level))
            at_lead = NAN if path is None or len(path) == 0 else float(path[min(steps, len(path)) - 1])
            values["harmony_forecast_demand", (level,)] = at_lead
        for bound, carried in zip(names.BOUNDS, _capacity_points(seen.capacity), strict=True):
            values["harmony_capacity_per_replica", (bound,)] = carried
        for level, took_s in zip(names.LEAD_QUANTILES, lead, strict=True):
            values["harmony_lead_time_seconds", (level,)] = took_s
        self._services.set(key, values)
        direction = "Up" if ordered > seen.ordered else "Down" if ordered < seen.ordered else "None"
        amounts: dict[Slot, float] = {
            (names.DECISIONS.name, (direction, str(decision.reason))): 1.0,
            (names.STEPS.name, ()): float(record.outcome.steps),
            (names.MISSED.name, ()): float(record.outcome.violated),
            (names.REAL_STEPS.name, ()): float(record.outcome.real_steps),
            (names.REAL_VIOLATED.name, ()): float(record.outcome.real_violated),
        }
        if record.outcome.shadow_steps:
            amounts[names.SHADOW_STEPS.name, ()] = float(record.outcome.shadow_steps)
            amounts[names.SHADOW_VIOLATED.name, ()] = float(record.outcome.shadow_violated)
        for limit in {limiter(said) for said in (decision.bound_by, held_by) if said}:
            amounts[names.LIMITED.name, (limit,)] = 1.0
        self._services.add(key, amounts)

    def observe_fallback(self, key: ServiceName, active: bool) -> None:
        """Whether the fallback decides."""
        self._services.set(key, {("harmony_fallback_active", ()): float(active)})

    def observe_metrics_age(self, key: ServiceName, age_s: float) -> None:
        """Seconds since the newest reading of demand; infinity when there never was one."""
        self._services.set(key, {("harmony_metrics_age_seconds", ()): float(age_s)})

    def observe_incomplete(self, key: ServiceName, incomplete: bool) -> None:
        """Whether the newest answer covers only a part of the demand."""
        self._services.set(key, {("harmony_metrics_incomplete", ()): float(incomplete)})

    def observe_start(self, key: ServiceName, seconds: float) -> None:
        """A replica became ready ``seconds`` after it was asked for; a number that cannot be a duration is dropped."""
        if math.isfinite(seconds) and seconds >= 0:
            self._services.observe_start(key, seconds)

    def observe_scale_error(self, key: ServiceName) -> None:
        """A change of the count was refused or failed."""
        self._services.add(key, {(names.SCALE_ERRORS.name, ()): 1.0})

    def observe_shadow(self, key: ServiceName, gpu_hours_saved: float, avoided_s: float, caused_s: float) -> None:
        """Running totals of what following HARMONY would have saved, avoided and caused."""
        values: dict[Slot, float] = {
            ("harmony_shadow_gpu_hours_saved", ()): gpu_hours_saved,
            ("harmony_shadow_miss_seconds", ("avoided",)): avoided_s,
            ("harmony_shadow_miss_seconds", ("caused",)): caused_s,
        }
        self._services.set(key, values)

    def observe_agreement(self, key: ServiceName, agreement: Agreement | None) -> None:
        """Stated beside realised risk, and whether they agree."""
        judged = None if agreement is None else agreement.judgement
        values: dict[Slot, float] = {
            ("harmony_stated_violation_ratio", ()): NAN if agreement is None else agreement.stated,
            ("harmony_stated_risk_agrees", ()): NAN if judged is None else float(judged is Judgement.AGREES),
        }
        self._services.set(key, values)

    def observe_bill(self, key: ServiceName, ordered: int, seen: Observation) -> None:
        """What the real target's ``ordered`` replicas cost an hour, and the idle part of it."""
        values: dict[Slot, float] = {
            ("harmony_bill_per_hour", ()): bill_per_hour(ordered, seen),
            ("harmony_idle_cost_per_hour", ()): idle_per_hour(ordered, seen),
        }
        self._services.set(key, values)

    def observe_scores(self, key: ServiceName, coverage: Mapping[float, float], crps: float) -> None:
        """How good the forecasts were: share of readings inside each central interval, and CRPS.

        An interval that is not in `catalogue.COVERAGES` raises ValueError; one that is not given is absent.
        """
        by_name = {f"{interval:g}": share for interval, share in coverage.items()}
        if unknown := by_name.keys() - set(names.COVERAGES):
            raise ValueError(f"coverage of {sorted(unknown)}: expected intervals among {', '.join(names.COVERAGES)}")
        values: dict[Slot, float] = {
            ("harmony_forecast_coverage_ratio", (c,)): by_name.get(c, NAN) for c in names.COVERAGES
        }
        values["harmony_forecast_crps", ()] = crps
        self._services.set(key, values)

    def forget(self, key: ServiceName) -> None:
        """Take all series of a service away, because it is gone."""
        self._services.forget(key)

    def forget_services(self) -> None:
        """Take the series of all services away: who no longer leads no longer knows."""
        self._services.clear()

    # the process -----------------------------------------------------------------------------------------------

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A stage of the tick (read, forecast, decide, act, status) took so long; other names raise ValueError."""
        if stage not in names.STAGES:
            raise ValueError(f"stage {stage!r}: expected one of {', '.join(names.STAGES)}")
        self._tick_duration.labels(stage).observe(seconds)

    def observe_tick(self, finished_s: float, *, overrun: bool) -> None:
        """A tick finished at ``finished_s`` (Unix time); ``overrun``: it took longer than the interval."""
        if self._last_tick is None:
            self._last_tick = Gauge(**self._named(names.LAST_TICK))
        self._last_tick.set(finished_s)
        self._ticks.inc()
        if overrun:
            self._overruns.inc()

    def observe_refresh(self, outcome: str, seconds: float) -> None:
        """A service's forecaster was refreshed, with what came of it, in so many seconds of a core."""
        self._refreshes.labels(outcome).inc()
        self._refresh_seconds.inc(max(0.0, seconds))

    def observe_kube_request(self, verb: str, resource: str, code: int, count: int = 1) -> None:
        """``count`` requests to the API server ended in ``code`` (0: no answer)."""
        self._kube_requests.labels(verb, resource, f"{code // 100}xx" if code >= 100 else "none").inc(count)

    def observe_error(self, component: str, error: BaseException | str) -> None:
        """Something failed in ``component``; the type is the exception's class."""
        self._errors.labels(component, error if isinstance(error, str) else type(error).__name__).inc()

    def observe_leader(self, leading: bool) -> None:
        """Whether this process acts."""
        self._leader.set(float(leading))

    def observe_keda_request(self, method: str, code: str) -> None:
        """The external scaler answered a call; ``code`` is the gRPC status name."""
        self._keda_requests.labels(method, code).inc()

    def observe_config(self, settings: Mapping[str, str]) -> None:
        """Settings for `harmony_config_info`; never secrets."""
        self._config.info(dict(settings))

    # for Prometheus --------------------------------------------------------------------------------------------

    def exposition(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
        """The text that Prometheus reads and its HTTP headers, in the format and encoding that it accepts."""
        encode, content_type = choose_encoder(accept)
        of_services = self._services.text(openmetrics=content_type.startswith("application/openmetrics-text"))
        body = of_services + encode(self.registry)  # in this order: OpenMetrics ends with the library's "# EOF"
        headers = {"Content-Type": content_type}
        if any(token.split(";")[0].strip() == "gzip" for token in accept_encoding.split(",")):
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        return body, headers


def _capacity_points(capacity: Capacity) -> tuple[float, float, float]:
    """5 %, 50 % and 95 % points of what a replica carries."""
    factor = math.exp(Z_95 * capacity.sigma)
    return capacity.median / factor, capacity.median, capacity.median * factor


@functools.lru_cache(maxsize=16_384)
def _lead_quantiles(lead_time: LeadTime) -> tuple[float, float]:
    """Median and 90 % quantile of the next start; kept, because it changes with starts only and Student's t is slow."""
    return (lead_time.median_s, lead_time.quantile_s(0.9))
