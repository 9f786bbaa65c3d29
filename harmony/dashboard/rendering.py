"""Templates, their filters, and the headers that every page is sent with."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

import harmony
from harmony.dashboard.assets import Assets
from harmony.model.decision import Reason
from harmony.model.record import Record
from harmony.serving.words import (
    QUANTITY,
    SHARE_OF,
    allowed,
    amount,
    chance,
    decider,
    duration,
    kept_back,
    percent,
    uses_joint_forecast,
)

__all__ = ["REPORT_HEADERS", "Renderer"]

# Nothing inline is allowed but the styles that plotly.js makes, by their hashes.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' {styles}; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# A replay report is one file with its style and script inside; it is kept apart from this site by the sandbox.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
UNIT = re.compile(r"(?<=\d) (?=%|(?:s|min|h|d|GPU-h|[A-Z]{3})\b)")
PAGE_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
REPORT_HEADERS = {"content-security-policy": REPORT_POLICY, "cache-control": "no-store"}

REASONS: dict[Reason, str] = {
    Reason.FORECAST: "the least expected cost among the counts that keep the objective",
    Reason.REACTIVE_FLOOR: "present demand already needs this many",
    Reason.WARMING_UP: "no forecast yet: present demand and a margin",
    Reason.ABSENT_DATA: "demand or forecast are absent, so the count is held",
    Reason.RATE_LIMITED: "a rate limit allows no more change at once",
    Reason.MIN_REPLICAS: "the minimum holds it up",
    Reason.MAX_REPLICAS: "the maximum holds it down",
    Reason.FALLBACK: "data have been absent for several turns, so the fallback decides",
    Reason.PAUSED: "scaling is paused",
    Reason.MODE_LIMITED: "the granted mode allows less",
    Reason.UNREACHABLE: "even at the maximum the stated risk exceeds the objective",
}
LIMITS = {
    "epsilon": "the objective",
    "risk cap": "the most risk that one decision may take",
    "hold": "the setting's own, on the way down",
    "stabilization": "your own window",
    "behavior": "your own rate limit",
    "stages": "your own scale-down in stages",
}
WEIGHED = {
    "bill and violations": "the whole bill, and what the expected violated time is worth",
    "bill, violations and changes": (
        "the whole bill, what the expected violated time is worth, and the price of leaving what was asked for last"
    ),
    "idle and missing": "what is expected to be lost to idle replicas, to missing ones and to switching",
}


def reason_words(record: Record) -> str:
    """Why a count is what it is, in words."""
    reason = record.decision.reason
    if reason is Reason.STABILIZED:
        return kept_back(record)
    if reason is Reason.FORECAST and not math.isnan(record.decision.price):
        return "one replica more wherever the violations that it prevents are worth more than it costs"
    return REASONS.get(reason, "as its name says")


class Renderer:
    """Makes pages."""

    def __init__(self, assets: Assets) -> None:
        env = Environment(
            loader=PackageLoader("harmony.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=unbroken,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        env.filters.update(json=safe_json, clock=clock, stamp=stamp)
        env.globals.update(
            assets=assets,
            allowed=allowed,
            amount=amount,
            chance=chance,
            decider=decider,
            uses_joint_forecast=uses_joint_forecast,
            duration=duration,
            percent=percent,
            money=money,
            QUANTITY=QUANTITY,
            SHARE_OF=SHARE_OF,
            reason_words=reason_words,
            LIMITS=LIMITS,
            WEIGHED=WEIGHED,
            version=harmony.__version__,
        )
        self._env = env
        self._headers = PAGE_HEADERS | {
            "content-security-policy": POLICY.format(styles=" ".join(assets.style_hashes()))
        }

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401
        """An answer with everything that a page must be sent with."""
        return HTMLResponse(self._env.get_template(f"{template}.html.j2").render(**values), status, self._headers)


def safe_json(value: Any) -> Markup:  # noqa: ANN401 (any plain value)
    """JSON that may stand inside a script element: nothing in it can end the element."""
    text = orjson.dumps(value).decode()
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, code)
    return Markup(text)


def unbroken(value: Any) -> Any:  # noqa: ANN401 (whatever a template shows)
    """The same text, in which no line ends between a number and its unit."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return UNIT.sub("\N{NO-BREAK SPACE}", value)


def money(value: float | None, currency: str = "") -> str:
    """An amount of money for people; "unknown" where it is absent."""
    if value is None or not math.isfinite(value):
        return "unknown"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return f"{text} {currency}".rstrip().replace("-", "−", 1)


def clock(at: str | None) -> str:
    """The time of day of an RFC 3339 moment."""
    return "unknown" if at is None else at[11:19]


def stamp(at: str | None) -> str:
    """Date and time of an RFC 3339 moment in UTC."""
    return "unknown" if at is None else f"{at[:10]} {at[11:19]} UTC"
