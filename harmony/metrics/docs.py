"""`docs/metrics.md` out of the catalogue: ``python -m harmony.metrics.docs`` writes it, a test compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from harmony.metrics.catalogue import CATALOGUE, SERVICE_LABELS, Definition
from harmony.model.decision import Reason

__all__ = ["PAGE", "QUERIES", "as_markdown", "main"]

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

HEAD = """# Metrics

Made from `harmony/metrics/catalogue.py` by `python -m harmony.metrics.docs`.

Served at `/metrics` (port 8080) as Prometheus text or OpenMetrics, whichever is accepted. Absent is never zero: a
number that is not known has no series, so alert on `absent(...)` or on `harmony_metrics_age_seconds`, never on 0. A
service's series end when the service does.

`name`, `namespace` and `kind` are those of the GPUAutoscaler (or of the annotated HorizontalPodAutoscaler or
ScaledObject). When Prometheus scrapes with pod labels attached, it renames ours to `exported_namespace` unless the
scrape sets `honorLabels: true`.
"""

SERVICE = "namespace, name, kind"
QUERIES = (
    ("Is the loop alive?", "time() - max(harmony_last_tick_timestamp_seconds) < 150"),
    (
        "Was the objective kept in the last day?",
        f"sum by ({SERVICE}) (increase(harmony_missed_steps_total[1d]))"
        f" / sum by ({SERVICE}) (increase(harmony_judged_steps_total[1d]))"
        f" <= max by ({SERVICE}) (harmony_promised_violation_probability)",
    ),
    (
        "Where does the upper bound hurt?",
        "harmony_recommended_replicas == harmony_max_replicas"
        " and harmony_violation_probability > harmony_promised_violation_probability",
    ),
    ("What would full authority change?", "harmony_recommended_replicas - harmony_current_replicas"),
    (
        "Is scaling nervous?",
        f'sum by ({SERVICE}) (rate(harmony_decisions_total{{direction!="None"}}[10m])) > 2 / 60',
    ),
    ("Is KEDA answered?", "sum by (code) (rate(harmony_keda_requests_total[5m]))"),
)


def as_markdown() -> str:
    """The page."""
    parts = [
        HEAD,
        f"## Per service\n\nAll carry the labels {_quoted(SERVICE_LABELS)}.",
        _table(d for d in CATALOGUE if d.per_service),
        f"`reason` is one of {_quoted(str(r) for r in Reason)}.",
        "## Per process",
        _table(d for d in CATALOGUE if not d.per_service),
        "The usual `process_*` and `python_info` come with them, and `*_created` beside counters and histograms.",
        "## Asking",
        "\n".join(["| question | PromQL |", "|---|---|", *(f"| {asked} | `{query}` |" for asked, query in QUERIES)]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(as_markdown(), encoding="utf-8")
    return 0


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"`{w}`" for w in words)


def _table(definitions: Iterable[Definition]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for d in definitions:
        labels = [
            f"`{name}`" + (f" ({', '.join(d.values)})" if d.values and not at else "")
            for at, name in enumerate(d.labels)
        ]
        text = d.help
        if d.buckets:
            text += f" Buckets: {', '.join(f'{b:g}' for b in d.buckets)}."
        rows.append(f"| `{d.name}` | {d.type} | {', '.join(labels)} | {text} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
