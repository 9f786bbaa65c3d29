"""The fleet table: one `FleetTableRow` per service, filtered and sorted as asked, in pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from harmony.dashboard.states import Ages, ServiceState, service_state
from harmony.serving import Snapshot

__all__ = ["COLUMNS", "FleetColumn", "FleetQuery", "FleetTable", "FleetTableRow", "fleet", "service_url"]

PAGE = 100
SPARK_W, SPARK_H, SPARK_POINTS = 96, 22, 48


@dataclass(frozen=True, slots=True)
class FleetTableRow:
    """One service as the table shows it; absent figures are None."""

    snapshot: Snapshot
    state: ServiceState
    url: str
    risk: float | None
    paths: int
    epsilon: float
    realized: float | None
    real: float | None
    shadow: float | None
    judgement: str
    coverage: float | None
    saved_hours: float | None
    saved_money: float | None
    demand: float | None
    spark: str

    @property
    def is_above_by_chance(self) -> bool:
        """Whether more was violated than the objective allows, by no more than chance explains."""
        return self.real is not None and self.real > self.epsilon and not self.snapshot.breaks_objective


@dataclass(frozen=True, slots=True)
class FleetColumn:
    """A sortable column: its key in the address, heading, an explanation, and the value it sorts by."""

    key: str
    title: str
    hint: str
    value: Callable[[FleetTableRow], str | float | None]
    numeric: bool = True


def known(value: float | None) -> float | None:
    """The number, or None where it is absent."""
    return None if value is None or not math.isfinite(value) else float(value)


COLUMNS = (
    FleetColumn("service", "Service", "Namespace and name, and what is scaled", lambda r: r.snapshot.service, False),
    FleetColumn("state", "State", "The most urgent thing to know", lambda r: r.state.rank, False),
    FleetColumn("mode", "Mode", "The authority in force", lambda r: r.snapshot.effective_mode, False),
    FleetColumn("demand", "Demand", "Newest reading, and the last hours as a line", lambda r: r.demand),
    FleetColumn("replicas", "Replicas", "Ready of current", lambda r: r.snapshot.ordered),
    FleetColumn("recommended", "Recommended", "What full authority would set", lambda r: r.snapshot.recommended),
    FleetColumn("risk", "Stated risk", "Stated probability of a violation, beside the objective", lambda r: r.risk),
    FleetColumn(
        "realized",
        "Violated",
        "Share of steps that the real replicas violated, and that HARMONY's would have violated without authority",
        lambda r: r.real,
    ),
    FleetColumn(
        "coverage", "Coverage", "Readings inside the central 80 % interval; 80 % is right", lambda r: r.coverage
    ),
    FleetColumn(
        "saved", "Would save", "GPU-hours and money that following HARMONY would have saved", lambda r: r.saved_hours
    ),
)
BY_KEY = {c.key: c for c in COLUMNS}


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """What a person asked to see: search text, mode, urgency ("": all; "attention"), sorting, page from 1."""

    q: str = ""
    mode: str = ""
    show: str = ""
    sort: str = "state"
    down: bool = False
    page: int = 1

    @classmethod
    def of(cls, params: dict[str, str]) -> FleetQuery:
        """Read from an address; what makes no sense is ignored."""
        sort = params.get("sort", "")
        page = params.get("page", "")
        return cls(
            q=params.get("q", "").strip()[:100],
            mode=params.get("mode", "")[:20],
            show="attention" if params.get("show") == "attention" else "",
            sort=sort if sort in BY_KEY else "state",
            down=params.get("dir") == "desc",
            page=int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 6 else 1,
        )

    def url(self, *, sort: str = "", page: int = 1) -> str:
        """The address of the same question sorted by another column (or the other way round), or of another page."""
        down = self.down if not sort else (sort == self.sort and not self.down)
        values = {
            "q": self.q,
            "mode": self.mode,
            "show": self.show,
            "sort": sort or self.sort,
            "dir": "desc" if down else "",
            "page": str(page) if page > 1 else "",
        }
        return "/?" + urlencode({k: v for k, v in values.items() if v})


@dataclass(frozen=True, slots=True)
class FleetTable:
    """The page: rows that are shown, how many there are in all and of the question, and totals over the fleet."""

    rows: tuple[FleetTableRow, ...]
    asked: FleetQuery
    found: int
    total: int
    pages: int
    attention: int
    ready: int
    ordered: int
    modes: tuple[str, ...]
    saved_hours: float
    saved_money: tuple[tuple[str, float], ...]
    shadow_steps: int
    shadow_violated: int
    real_beside: int
    objectives_kept: int
    objectives_above: int
    objectives: int


def service_url(service: str) -> str:
    """The address of a service's page."""
    return "/services/" + "/".join(quote(part, safe="") for part in service.split("/", 1))


def table_row(snapshot: Snapshot, ages: Ages) -> FleetTableRow:
    """One service as the table shows it."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    judged = snapshot.shadow_s > 0
    saved = known(snapshot.gpu_hours_saved) if judged else None
    counts = snapshot.violations
    judged_as = None if snapshot.agreement is None else snapshot.agreement.judgement
    return FleetTableRow(
        snapshot=snapshot,
        state=service_state(snapshot, ages),
        url=service_url(snapshot.service),
        risk=known(decision.violation_probability),
        paths=decision.paths,
        epsilon=seen.objective.epsilon,
        realized=known(snapshot.realized),
        real=None if counts is None else counts.real_rate,
        shadow=None if counts is None else counts.shadow_rate,
        judgement="" if judged_as is None else str(judged_as),
        coverage=known(snapshot.coverage.get(0.8)),
        saved_hours=saved,
        saved_money=None if saved is None else saved * seen.objective.price_per_gpu_hour,
        demand=known(seen.demand),
        spark=sparkline(snapshot.history.tolist()),
    )


def sparkline(values: Sequence[float]) -> str:
    """An SVG path of the newest values on a 96 x 22 grid; absent readings are gaps; empty for nothing known."""
    values = values[-SPARK_POINTS:]
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    top, low = max(finite), min(0.0, *finite)
    scale = (SPARK_H - 2) / ((top - low) or 1.0)
    parts, pen = [], "M"
    for i, value in enumerate(values):
        if not math.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{i * SPARK_W / (len(values) - 1):.1f} {SPARK_H - 1 - (value - low) * scale:.1f}")
        pen = "L"
    return "".join(parts)


def fleet(snapshots: Iterable[Snapshot], asked: FleetQuery, ages: Ages) -> FleetTable:
    """Filter, sort and cut into pages; totals are over the whole fleet."""
    rows = [table_row(s, ages) for s in snapshots]
    shown = [r for r in rows if _matches(r, asked)]
    shown.sort(key=lambda r: r.snapshot.service)
    value = BY_KEY[asked.sort].value
    present = [r for r in shown if value(r) is not None]
    absent = [r for r in shown if value(r) is None]  # last whichever way the others go
    present.sort(key=value, reverse=asked.down)  # type: ignore[arg-type]  # one column has values of one type
    shown = present + absent
    pages = max(1, math.ceil(len(shown) / PAGE))
    first = (min(asked.page, pages) - 1) * PAGE
    money: dict[str, float] = {}
    for r in rows:
        if r.saved_money is not None:
            money[r.snapshot.currency] = money.get(r.snapshot.currency, 0.0) + r.saved_money
    counts = [r.snapshot.violations for r in rows if r.snapshot.violations is not None]
    judged = [r for r in rows if r.real is not None]
    return FleetTable(
        rows=tuple(shown[first : first + PAGE]),
        asked=asked,
        found=len(shown),
        total=len(rows),
        pages=pages,
        attention=sum(r.state.level in ("bad", "warn") for r in rows),
        ready=sum(r.snapshot.ready for r in rows),
        ordered=sum(r.snapshot.ordered for r in rows),
        modes=tuple(sorted({r.snapshot.effective_mode for r in rows})),
        saved_hours=sum(r.saved_hours or 0.0 for r in rows),
        saved_money=tuple(sorted(money.items())),
        shadow_steps=sum(c.shadow_steps for c in counts),
        shadow_violated=sum(c.shadow_violated for c in counts),
        real_beside=sum(c.real_beside for c in counts),
        objectives_kept=sum(not r.snapshot.breaks_objective for r in judged),
        objectives_above=sum(r.is_above_by_chance for r in judged),
        objectives=len(judged),
    )


def _matches(row: FleetTableRow, asked: FleetQuery) -> bool:
    snapshot = row.snapshot
    text = f"{snapshot.service} {snapshot.target} {snapshot.gpu_type} {row.state.text}".casefold()
    return (
        all(word in text for word in asked.q.casefold().split())
        and asked.mode in ("", snapshot.effective_mode)
        and (not asked.show or row.state.level in ("bad", "warn"))
    )
