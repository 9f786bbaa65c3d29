"""Ticks in words: times as dates or as time elapsed, quantities with thousands marks, shares as per cent."""

from __future__ import annotations

import math
from datetime import UTC, datetime

__all__ = ["DAY", "amount_label", "duration_label", "moment", "percent_label", "time_ticks"]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
STEPS_S = (
    *(s for s in (1.0, 5.0, 10.0, 30.0)),
    *(m * MINUTE for m in (1, 2, 5, 10, 15, 30)),
    *(h * HOUR for h in (1, 2, 3, 6, 12)),
    *(d * DAY for d in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)),
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def moment(at_s: float, *, calendar: bool, with_time: bool = True) -> str:
    """A time in words: ``7 Mar 2024 14:05 UTC``, or ``1 d 2 h`` since the epoch where there is no calendar."""
    if not calendar:
        return duration_label(at_s)
    t = datetime.fromtimestamp(at_s, tz=UTC)
    day = f"{t.day} {MONTHS[t.month - 1]} {t.year}"
    return f"{day} {t.hour:02}:{t.minute:02} UTC" if with_time else day


def duration_label(seconds: float) -> str:
    """A length of time in its two largest units: ``3 d 4 h``, ``15 min``, ``42 s``."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    parts = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count:
            parts.append((f"{count:,} {name}", size))
    if not parts:
        return "0 s" if seconds < 0.0005 else f"{seconds:.3g} s"
    near = len(parts) > 1 and parts[0][1] <= 60 * parts[1][1]  # "3 d 4 h", but not "3 d 4 s"
    return " ".join(p for p, _ in parts[: 2 if near else 1])


def time_ticks(start_s: float, span_s: float, most: int, *, calendar: bool) -> list[tuple[float, str]]:
    """At most ``most`` round times within ``span_s`` seconds from ``start_s``: (seconds from the start, label).

    With a calendar they are UTC times aligned to midnight; without one, times elapsed since ``start_s`` = 0.
    """
    step = next((s for s in STEPS_S if span_s / s <= most), STEPS_S[-1])
    first = math.ceil((start_s - 1e-6) / step) * step
    out: list[tuple[float, str]] = []
    at = first
    while at <= start_s + span_s + 1e-6 and len(out) <= most:
        out.append((at - start_s, _date_label(at, step) if calendar else _elapsed_label(at, step)))
        at += step
    return out


def _date_label(at_s: float, step: float) -> str:
    t = datetime.fromtimestamp(at_s, tz=UTC)
    if step >= DAY or (t.hour, t.minute, t.second) == (0, 0, 0):
        return f"{t.day} {MONTHS[t.month - 1]}"
    clock = f"{t.hour:02}:{t.minute:02}"
    return f"{clock}:{t.second:02}" if step < MINUTE else clock


def _elapsed_label(at_s: float, step: float) -> str:
    for size, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if step >= size:
            return f"{at_s / size:,.0f} {name}"
    return f"{at_s:,.0f} s"


def amount_label(value: float, _position: int = 0) -> str:
    """A quantity on an axis: ``0``, ``0.25``, ``1,200``, ``35k``, ``2.5M``."""
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 10 * unit or (unit > 1e3 and size >= unit):
            return f"{value / unit:.3g}{name}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


def percent_label(share: float) -> str:
    """A share as per cent with what matters: ``0%``, ``0.82%``, ``12.4%``, ``0.004%``."""
    value = 100 * share
    if value == 0:
        return "0%"
    if abs(value) < 0.01:
        return f"{value:.1g}%" if abs(value) >= 1e-4 else "under 0.0001%"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{text.rstrip('0').rstrip('.')}%" if "." in text else f"{text}%"
