"""The messages of the API, as pydantic models: what the OpenAPI document and `harmony.client` are made of.

Absent numbers are null; times are RFC 3339 in UTC unless a name ends in `_s` (seconds).
"""

from harmony.api.models.admin import Audit, AuditPage, Key, KeyPage, KeyRequest, Me, NewKeyAnswer
from harmony.api.models.base import Health, Model, ProblemDetails
from harmony.api.models.budget import GpuBudget, GpuBudgetRequest
from harmony.api.models.decisions import Candidate, Decision, DecisionPage, Explanation, Side, WhatIf, WhatIfRequest
from harmony.api.models.forecasts import (
    AdHocForecast,
    AdHocRequest,
    BeyondHabit,
    Forecast,
    ForecastExplanation,
    ForecastIndicator,
    IndicatorRequest,
    PastShare,
    QuantileRow,
)
from harmony.api.models.services import Calibration, FleetPage, FleetRow, History, Service
from harmony.api.models.work import BacktestRequest, Job, JobPage, ModelCard, ModelPage

__all__ = [
    "AdHocForecast",
    "AdHocRequest",
    "Audit",
    "AuditPage",
    "BacktestRequest",
    "BeyondHabit",
    "Calibration",
    "Candidate",
    "Decision",
    "DecisionPage",
    "Explanation",
    "FleetPage",
    "FleetRow",
    "Forecast",
    "ForecastExplanation",
    "ForecastIndicator",
    "GpuBudget",
    "GpuBudgetRequest",
    "Health",
    "History",
    "IndicatorRequest",
    "Job",
    "JobPage",
    "Key",
    "KeyPage",
    "KeyRequest",
    "Me",
    "Model",
    "ModelCard",
    "ModelPage",
    "NewKeyAnswer",
    "PastShare",
    "ProblemDetails",
    "QuantileRow",
    "Service",
    "Side",
    "WhatIf",
    "WhatIfRequest",
]
