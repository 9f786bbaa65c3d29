"""Services as they are now."""

from __future__ import annotations

from pydantic import Field

from harmony.api.models.base import Model, Number, Probability
from harmony.api.models.decisions import Decision
from harmony.api.models.forecasts import Forecast

__all__ = ["Calibration", "CalibrationPoint", "FleetPage", "FleetRow", "History", "Misses", "Service", "ViolatedSteps"]


class Misses(Model):
    """Violated seconds that following HARMONY would have avoided or caused while it had no authority (totals)."""

    avoided_s: Number
    caused_s: Number


class ViolatedSteps(Model):
    """Violated steps since counting began."""

    steps: int = Field(description="Steps with known demand.")
    violated: int = Field(description="Of these, those in which demand exceeded what the ready replicas carry.")
    rate: float = Field(description="Violated over known steps.")


class FleetRow(Model):
    """One service in the fleet table."""

    service: str = Field(examples=["serving/chat"])
    kind: str
    target: str
    gpu_type: str
    mode: str
    effective_mode: str
    ordered: int
    ready: int
    recommended: int = Field(description="What full authority would set.")
    desired: int = Field(description="What is set within the authority.")
    held_by: str = Field(description="What keeps the two apart; empty for nothing.")
    demand: Number
    unit: str
    violation_probability: Probability = Field(description="Stated probability of a violation.")
    paths: int = Field(0, description="Sample paths it was counted on, of which 0 is less than one; 0 for none.")
    epsilon: float = Field(description="The violation rate that the objective allows.")
    reason: str
    realized: Number = Field(
        description="Violated share of the steps that decisions answer for, lately; the shadow's without authority."
    )
    stated: Number = Field(description="Mean probability stated for them.")
    stated_judgement: str | None = Field(
        None,
        description="Agrees, Understated or Overstated: whether stated and realised differ beyond chance; null before "
        "enough was judged.",
    )
    real: ViolatedSteps | None = Field(None, description="What the real replicas violated, whoever set them.")
    shadow: ViolatedSteps | None = Field(None, description="What the shadow would have violated; null without one.")
    bill_per_hour: Number = Field(None, description="Money per hour for the current replicas, used or not.")
    idle_per_hour: Number = Field(None, description="The part of it for replicas that present demand does not need.")
    currency: str = ""
    gpu_hours_saved: Number = Field(description="GPU-hours that following HARMONY would have saved (total).")
    misses: Misses
    coverage_80: Number = Field(description="Share of readings inside the central 80 % interval of the forecast.")
    at: str | None


class FleetPage(Model):
    """A page of the fleet."""

    items: list[FleetRow]
    next_cursor: str | None
    total: int = Field(description="Services that fit the filters.")
    version: int = Field(description="Grows with every change of the fleet; each server counts for itself.")


class History(Model):
    """Recent demand, oldest first."""

    service: str
    indicator: str
    unit: str
    times: list[str | None]
    values: list[Number]


class CalibrationPoint(Model):
    """How often readings fell inside the central interval of this probability."""

    nominal: float
    observed: Number


class Calibration(Model):
    """Are the stated probabilities true?"""

    service: str
    coverage: list[CalibrationPoint]
    crps: Number = Field(description="Mean continuous ranked probability score, in the demand's unit.")
    unit: str
    promised: float
    stated: Number
    realized: Number
    realized_low: Number = Field(None, description="95 % interval of the rate behind the realised share: its low end.")
    realized_high: Number = Field(None, description="Its high end.")
    judgement: str | None = Field(None, description="As `stated_judgement` in the fleet.")
    risk_level: Number = Field(description="The model's own probability that has been found to realise epsilon.")


class Service(Model):
    """All about one service."""

    summary: FleetRow
    decision: Decision
    forecast: Forecast | None
    history: History
    calibration: Calibration
    conditions: list[dict[str, str]]
