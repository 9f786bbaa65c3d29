"""What shapes a synthetic service: `GeneratorOptions`, and four profiles calibrated on published trace statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from forecasting.errors import UsageError

__all__ = ["MONDAY_S", "PROFILES", "GeneratorOptions"]

MONDAY_S = 1_767_571_200.0
"""2026-01-05T00:00:00Z, a Monday: where generated traces start."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """What shapes a synthetic service; every figure is dimensionless unless its name carries a unit.

    Attributes:
        service: which indicators are shown: "llm", "web" or "batch".
        mean: mean demand (requests/s; GPUs for "batch") before trend, regimes and bursts.
        day_half_range: (max - min) / 2 / mean of the 24 hourly means; 0 is a flat day.
        peak_hour: hour of the daily peak, UTC.
        weekday_over_weekend: mean of a weekday over that of a weekend day.
        day_cv: coefficient of variation of the level of single days.
        growth_per_week: relative growth in a week, compounding (0.05 = 5 %).
        cycle_period_s, cycle_half_range, cycle_sharpness: a second cycle of any period (scheduled work), 0 = none.
        regimes_per_week, regime_sigma: how often the level jumps, and the log-deviation of the new level.
        slow_cv, slow_scale_s: autocorrelated noise and its correlation time.
        fast_cv: over-dispersion of the count in one minute beyond Poisson (0 = Poisson).
        bursts_per_day, burst_height_median, burst_tail_index, burst_mean_s, burst_cap: Poisson bursts whose peak over
            baseline is Pareto with that median and tail index, cut at the cap.
        on_share, on_mean_s: share of time with any demand, and mean length of such a spell (1 = always).
        headroom: what the recorded fleet carries over mean demand; beyond it the service queues.
        requests_per_gpu: requests/s that one GPU of the recorded fleet carries ("llm").
        prompt_tokens_mean, prompt_tokens_cv, output_tokens_mean, output_tokens_cv: tokens a request ("llm").
        job_log_mean, job_log_sigma: lognormal job duration in log seconds ("batch").
        missing_share: share of single readings that are absent.
        outages_per_week, outage_mean_s: spells in which nothing was recorded.
        digits: significant digits kept.
    """

    service: str = "llm"
    mean: float = 12.0
    day_half_range: float = 0.6
    peak_hour: float = 15.5
    weekday_over_weekend: float = 1.3
    day_cv: float = 0.06
    growth_per_week: float = 0.0
    cycle_period_s: float = 3600.0
    cycle_half_range: float = 0.0
    cycle_sharpness: float = 1.0
    regimes_per_week: float = 0.0
    regime_sigma: float = 0.3
    slow_cv: float = 0.15
    slow_scale_s: float = 1800.0
    fast_cv: float = 0.1
    bursts_per_day: float = 1.0
    burst_height_median: float = 3.0
    burst_tail_index: float = 3.0
    burst_mean_s: float = 300.0
    burst_cap: float = 20.0
    on_share: float = 1.0
    on_mean_s: float = 1800.0
    headroom: float = 3.0
    requests_per_gpu: float = 2.0
    prompt_tokens_mean: float = 900.0
    prompt_tokens_cv: float = 1.3
    output_tokens_mean: float = 340.0
    output_tokens_cv: float = 0.75
    job_log_mean: float = 6.566
    job_log_sigma: float = 1.91
    missing_share: float = 0.001
    outages_per_week: float = 0.5
    outage_mean_s: float = 600.0
    digits: int = 4

    def __post_init__(self) -> None:
        if self.service not in ("llm", "web", "batch"):
            raise UsageError(f"generator option service={self.service!r}: expected llm, web or batch")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "service" and not (math.isfinite(value) and (value >= 0 or item.name in _SIGNED)):
                raise UsageError(f"generator option {item.name}={value}: expected a finite number of at least 0")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise UsageError(f"generator option {name}={getattr(self, name)}: expected a number above 0")
        for name in ("missing_share", "on_share"):
            if getattr(self, name) > 1:
                raise UsageError(f"generator option {name}={getattr(self, name)}: expected a share of at most 1")


_SIGNED = frozenset({"growth_per_week", "job_log_mean", "peak_hour"})
_POSITIVE = (
    *("mean", "weekday_over_weekend", "cycle_period_s", "slow_scale_s", "burst_tail_index", "burst_mean_s"),
    *("on_share", "on_mean_s", "headroom", "requests_per_gpu", "prompt_tokens_mean", "prompt_tokens_cv"),
    *("output_tokens_mean", "output_tokens_cv", "job_log_sigma", "outage_mean_s", "digits"),
)

PROFILES: Mapping[str, GeneratorOptions] = MappingProxyType(
    {
        "chat": GeneratorOptions(
            mean=12.0,
            day_half_range=1.113,  # BurstGPT conversation, hourly: half range over mean
            weekday_over_weekend=1.925,  # BurstGPT conversation (guessed weekend days)
            day_cv=0.08,
            growth_per_week=0.03,
            regimes_per_week=0.3,
            regime_sigma=0.15,
            slow_cv=0.25,  # hour of day then explains 0.77 of hourly variance (BurstGPT conversation 0.71)
            slow_scale_s=3600.0,
            fast_cv=0.096,  # Mooncake conversation: count cv in 60 s 0.119, of which Poisson 0.070
            bursts_per_day=2.29,  # web_nasa aug, 1 min
            burst_height_median=2.0,
            burst_tail_index=2.5,
            burst_mean_s=400.0,
            burst_cap=8.0,
            headroom=4.0,
            prompt_tokens_mean=914.3,  # ServeGen m-large, weighted by rate
            prompt_tokens_cv=1.313,  # Mooncake conversation
            output_tokens_mean=342.6,  # Mooncake conversation
            output_tokens_cv=0.7294,  # Mooncake conversation
        ),
        "code": GeneratorOptions(
            mean=2.567,  # Azure 2023 code: mean requests/s
            day_half_range=0.9058,  # BurstGPT api, hourly
            weekday_over_weekend=2.269,  # BurstGPT api (guessed weekend days)
            day_cv=0.15,
            regimes_per_week=0.5,
            regime_sigma=0.25,
            slow_cv=0.35,  # Azure 2023 code: count cv in 600 s 0.347
            slow_scale_s=600.0,
            fast_cv=0.8,  # with the bursts, count cv in 60 s 1.04 within an hour, as in Azure 2023 code
            bursts_per_day=29.45,  # GenTD26 generative_qps, 57 s
            burst_height_median=5.0,  # GenTD26 generative_qps, 57 s
            burst_tail_index=2.5,
            burst_mean_s=120.1,  # GenTD26 generative_qps, 57 s
            headroom=5.0,
            requests_per_gpu=4.0,
            prompt_tokens_mean=2048.0,  # Azure 2023 code
            prompt_tokens_cv=0.9638,  # Azure 2023 code
            output_tokens_mean=27.88,  # Azure 2023 code
            output_tokens_cv=2.147,  # Azure 2023 code
        ),
        "batch": GeneratorOptions(
            service="batch",
            mean=60.0,
            day_half_range=0.45,  # submissions; of the GPUs in use it leaves 0.03 to 0.29, as in Helios Earth
            weekday_over_weekend=1.516,  # Helios Earth vc8Sj, GPUs in use
            day_cv=0.2,
            slow_cv=0.6,
            slow_scale_s=7200.0,
            bursts_per_day=2.323,  # Helios Earth vc8Sj
            burst_height_median=9.0,  # Helios Earth vc8Sj
            burst_tail_index=3.0,
            burst_mean_s=467.5,  # Helios Earth vc8Sj
            headroom=1.5,
            job_log_mean=6.566,  # Alibaba 2023 GPU pods, log seconds
            job_log_sigma=1.91,  # Alibaba 2023 GPU pods
        ),
        "web": GeneratorOptions(
            service="web",
            mean=40.0,
            day_half_range=0.5923,  # web_nasa jul
            peak_hour=14.0,  # web_nasa jul
            weekday_over_weekend=1.699,  # web_nasa jul
            day_cv=0.15,
            slow_cv=0.22,
            slow_scale_s=1200.0,
            fast_cv=0.24,  # web_nasa jul: count cv in 1 min 0.680, in 10 min 0.613
            bursts_per_day=2.29,  # web_nasa aug
            burst_height_median=3.029,  # web_nasa aug
            burst_tail_index=6.2,  # web_nasa aug: 90 % of peaks below 3.918
            burst_mean_s=94.65,  # web_nasa aug
        ),
    }
)
