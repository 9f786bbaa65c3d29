"""Forecasts: the newest of a service, and of a history that is posted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, field_validator, model_validator

from harmony.api.models.base import Model, Number, Request

__all__ = [
    "AdHocForecast",
    "AdHocRequest",
    "BeyondHabit",
    "Forecast",
    "ForecastExplanation",
    "ForecastIndicator",
    "IndicatorRequest",
    "PastShare",
    "QuantileRow",
]

MOST_CELLS = 2_000_000  # samples x horizon x indicators of one answer
FIRST_S = datetime(1, 1, 2, tzinfo=UTC).timestamp()
LAST_S = datetime(9999, 12, 30, tzinfo=UTC).timestamp()


class ForecastIndicator(Model):
    """One indicator's future."""

    level: int
    unit: str
    quantiles: dict[str, list[Number]] = Field(description="Level of the quantile -> value per step.")
    paths: list[list[Number]] | None = Field(None, description="Joint sample paths, where asked for.")
    experts: dict[str, float] | None = Field(
        None, description="What the forecast is made of: part of the model -> share, mean over the steps; sums to 1."
    )


class Forecast(Model):
    """The newest forecast of a service."""

    service: str
    origin: str | None = Field(description="Time of the last reading; step h is h steps later.")
    step_s: float
    horizon: int
    lead_steps: int = Field(description="Steps that the decision answers for.")
    times: list[str | None]
    model: str
    samples: int
    demand: str = Field(description="The indicator that replicas are counted for.")
    capacity_per_replica: Number
    available: list[str]
    indicators: dict[str, ForecastIndicator]


Reading = Annotated[float, Field(ge=-1e15, le=1e15)]
QuantileLevel = Annotated[float, Field(gt=0, lt=1)]


class IndicatorRequest(Request):
    """A column of the posted history."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
    level: Literal[1, 2, 3] = Field(1, description="1 demand, 2 resource, 3 system.")
    kind: Literal["gauge", "counter", "rate"] = "gauge"
    unit: str = Field("", max_length=64)


class AdHocRequest(Request):
    """A history on a uniform grid; null is absent (never zero)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "indicators": [{"name": "requests", "unit": "requests/s"}, {"name": "gpu", "level": 2}],
                    "step_seconds": 60,
                    "start": "2026-03-01T12:00:00Z",
                    "values": [[120.0, 0.61], [None, 0.64], [131.5, 0.66], [140.2, 0.71]],
                    "horizon": 6,
                }
            ]
        }
    )

    indicators: list[IndicatorRequest] = Field(min_length=1, max_length=64)
    step_seconds: float = Field(ge=1, le=86_400)
    start: AwareDatetime | None = Field(
        None, description="Time of the first row; null where hour and weekday mean nothing.", strict=False
    )
    values: list[list[Reading | None]] = Field(min_length=1, max_length=4096, description="One row per step.")
    horizon: int = Field(12, ge=1, le=96)
    samples: int = Field(200, ge=10, le=1000)
    quantiles: list[QuantileLevel] = Field([0.05, 0.25, 0.5, 0.75, 0.95, 0.99], min_length=1, max_length=20)
    paths: int = Field(0, ge=0, le=50, description="How many sample paths to return.")
    explain: bool = Field(False, description="Also say what moved the forecast of the first indicator.")

    @field_validator("start", mode="before")
    @classmethod
    def _no_bare_digits(cls, start: object) -> object:
        """20260105, quoted or not, is a date to whoever wrote it, and 1970-08-23 to a reader of seconds."""
        bare = isinstance(start, str) and start.strip().lstrip("+-").replace(".", "", 1).isdecimal()
        if bare or isinstance(start, (int, float)):
            raise ValueError("expected ISO 8601 with its offset, such as 2026-03-01T12:00:00Z")
        return start

    @model_validator(mode="after")
    def _fits(self) -> AdHocRequest:
        width = len(self.indicators)
        for at, row in enumerate(self.values):
            if len(row) != width:
                raise ValueError(f"values[{at}] has {len(row)} numbers, expected one per indicator ({width})")
        for at, indicator in enumerate(self.indicators):
            if indicator.kind == "counter" and any((row[at] or 0) < 0 for row in self.values):
                raise ValueError(f"values of {indicator.name}: a counter is never negative; is it a gauge?")
        names = [indicator.name for indicator in self.indicators]
        if len(set(names)) < width:
            raise ValueError("indicator names must be unique")
        if self.samples * self.horizon * width > MOST_CELLS:
            raise ValueError(f"samples x horizon x indicators must be at most {MOST_CELLS}")
        self._within_the_calendar()
        return self

    def _within_the_calendar(self) -> None:
        """The first reading and the last step forecast have a date (with a day to spare for any time zone)."""
        if self.start is None:
            return
        last_s = (len(self.values) + self.horizon) * self.step_seconds
        if not FIRST_S <= self.start.timestamp() <= LAST_S - last_s:
            raise ValueError("start: the history and its forecast must lie between 0001-01-02 and 9999-12-30")


class QuantileRow(Model):
    """One indicator of an ad-hoc forecast."""

    name: str
    level: int
    unit: str
    mean: list[Number]
    quantiles: dict[str, list[Number]]
    paths: list[list[Number]] | None = None


class PastShare(Model):
    """A stretch of the past and how much of what moved the forecast it was."""

    label: str
    first: int = Field(description="Newest row of the stretch, counted back from 1; 0 for a season.")
    last: int
    season_s: float = Field(description="Seconds before each step, of a season; else 0.")
    share: float


class BeyondHabit(Model):
    """What the network's attention is on in this forecast and not in earlier ones of the service."""

    stretches: list[PastShare] = Field(description="Shares sum to 1; even where there is nothing beyond habit.")
    unusual: float = Field(description="Share of the earlier forecasts whose attention is nearer to habit.")
    windows: int = Field(description="How many earlier forecasts habit is taken from.")
    same_hour: bool = Field(description="Whether they were made at this time of day.")
    sentence: str


class ForecastExplanation(Model):
    """What moved a forecast. Shares of a group sum to 1; to 0 where nothing that was read moved it."""

    indicator: str
    model: str
    horizon: int
    experts: dict[str, float] = Field(description="What the forecast is made of.")
    indicators: dict[str, float] = Field(description="How far hiding their readings moves it; 0 for what is absent.")
    levels: dict[str, float]
    past: list[PastShare]
    beyond_habit: BeyondHabit | None = Field(None, description="Where the history is long enough to tell habit by.")
    sentence: str


class AdHocForecast(Model):
    """The joint future of a posted history."""

    model: str
    origin: str | None
    step_seconds: float
    horizon: int
    samples: int
    indicators: list[QuantileRow]
    explanation: ForecastExplanation | None = Field(default=None, description="Where it was asked for.")
    explanation_note: str | None = Field(default=None, description="Why there is none, where it was asked for.")
