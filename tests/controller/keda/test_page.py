"""The sample of docs/keda.md says what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from controller.keda.answers import METRIC
from harmony.policies.hpa import desired_replicas

PAGE = (Path(__file__).parents[3] / "docs" / "keda.md").read_text(encoding="utf-8")


def sample() -> dict[str, Any]:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    return dict(yaml.safe_load(block))


def test_the_sample_falls_back_upwards_only_and_has_no_tolerance() -> None:
    spec = sample()["spec"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert [behavior[d]["tolerance"] for d in ("scaleUp", "scaleDown")] == ["0", "0"]
    ours = spec["triggers"][0]
    assert ours["type"] == "external"
    assert ours["metadata"]["autoscaler"] == spec["scaleTargetRef"]["name"]
    assert all(t.get("metricType", "AverageValue") == "AverageValue" for t in spec["triggers"])
    assert f"`{METRIC}`" in PAGE


def test_the_table_of_the_tolerance_is_computed() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| \**(\d+)\** \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for current, ours, default, remedied in (map(int, row) for row in rows):
        assert desired_replicas(float(ours), 1.0, current, current, 0.1) == default
        assert desired_replicas(float(ours), 1.0, current, current, 0.0) == remedied
