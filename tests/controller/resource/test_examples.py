"""Examples: every object is what its API server would take, and ours is what parsing understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from controller.resource.group import GROUP, HPA_KIND, KIND, SCALED_OBJECT_KIND, Annotation
from controller.resource.parsing import parse_annotated, parse_autoscaler
from harmony.model.authority import Mode

from .test_crd import admitted

FOLDER = Path(__file__).parents[3] / "examples"
FILES = sorted(FOLDER.glob("*.yaml"))
BUILT_IN = {"v1", "apps/v1", "autoscaling/v2"}
WORKLOADS = {"Deployment", "StatefulSet", "LeaderWorkerSet"}
# Whose target stands elsewhere: what makes it, which is a kind in the file, another example, or a command in its text.
MADE_BY = {
    "kserve.yaml": ("InferenceService", ("Deployment", "chat-predictor")),
    "dynamo.yaml": ("DynamoGraphDeployment", ("DynamoGraphDeploymentScalingAdapter", "graph-decode")),
    "vllm-production-stack.yaml": (
        "helm install stack vllm/vllm-stack",
        ("Deployment", "stack-llama3-deployment-vllm"),
    ),
    "keda-max.yaml": ("keda-external-scaler.yaml", ("Deployment", "embed")),
}
OBJECTS: list[tuple[str, dict[str, Any]]] = [
    (file.name, obj) for file in FILES for obj in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
IDS = [f"{name}:{obj['kind']}:{obj['metadata']['name']}" for name, obj in OBJECTS]


def test_all_five_are_there() -> None:
    assert {file.stem for file in FILES} >= {
        "vllm-deployment",
        "keda-external-scaler",
        "hpa-floor",
        "statefulset",
        "leaderworkerset",
    }


@pytest.mark.parametrize(("file", "obj"), OBJECTS, ids=IDS)
def test_an_object_is_valid(file: str, obj: dict[str, Any]) -> None:
    if obj["apiVersion"] in BUILT_IN:
        assert kubernetes_validate.validate(obj, "1.36", strict=True) == "1.36"
    elif obj["apiVersion"].startswith(GROUP):
        assert admitted(obj) == []
        assert parse_autoscaler(obj).queries
    else:
        assert obj["apiVersion"] in {
            "keda.sh/v1alpha1",
            "leaderworkerset.x-k8s.io/v1",
            "monitoring.coreos.com/v1",
            "nvidia.com/v1alpha1",
            "serving.kserve.io/v1beta1",
        }, "an API that this test knows nothing of"


@pytest.mark.parametrize("file", FILES, ids=[f.name for f in FILES])
def test_a_file_is_complete_and_commented(file: Path) -> None:
    """Whatever is scaled stands in the same file, by its own name, kind and namespace, once, or its maker is said."""
    objects = [obj for name, obj in OBJECTS if name == file.name]
    there = [
        (o["apiVersion"], o["kind"], o["metadata"]["namespace"], o["metadata"]["name"])
        for o in objects
        if o["kind"] in WORKLOADS
    ]
    if file.stem == "vllm-podmonitor":
        assert [o["kind"] for o in objects] == ["PodMonitor"]
        return
    scalers = [o for o in objects if o["kind"] in (KIND, HPA_KIND, SCALED_OBJECT_KIND)]
    maker, target = MADE_BY.get(file.name, ("", None))
    text = file.read_text(encoding="utf-8")
    if target is None:
        assert there
    else:
        assert not there
        if maker.endswith(".yaml"):
            assert f"examples/{maker}" in text
            assert target[1] in {o["metadata"]["name"] for o in of(maker, target[0])}
        elif " " in maker:
            assert f"#   {maker}" in text
        else:
            made = of(file.name, maker)[0]
            assert target[1].startswith(f"{made['metadata']['name']}-"), "its maker gives it its own name"
    assert len(set(there)) == len(there)
    assert scalers
    for scaler in scalers:
        ref = scaler["spec"]["scaleTargetRef"]
        found = (ref["apiVersion"], ref["kind"], scaler["metadata"]["namespace"], ref["name"]) in there
        assert found if target is None else (ref["kind"], ref["name"]) == target
    for workload in objects:
        if workload["kind"] in WORKLOADS:
            assert "replicas" not in workload["spec"]  # applying the file again must not undo scaling
    assert text.startswith("# ")
    assert len(re.findall(r"^\s*#|\s# ", text, re.MULTILINE)) >= 5


def of(file: str, kind: str) -> list[dict[str, Any]]:
    return [obj for name, obj in OBJECTS if name == file and obj["kind"] == kind]


def test_the_annotated_autoscaler_is_understood() -> None:
    floor, external = of("hpa-floor.yaml", HPA_KIND)
    settings = parse_annotated(floor)
    assert settings is not None
    assert settings.mode is Mode.FLOOR
    assert settings.capacity.median == 24
    assert settings.lead_time.median_s == pytest.approx(240)
    assert all(name in vars(Annotation).values() for name in floor["metadata"]["annotations"])
    assert parse_annotated(external) is None
    for direction in ("scaleUp", "scaleDown"):
        assert external["spec"]["behavior"][direction]["tolerance"] == "0"


def test_keda_and_we_agree_on_the_bounds_and_on_who_writes() -> None:
    (ours,), (theirs,) = of("keda-external-scaler.yaml", KIND), of("keda-external-scaler.yaml", SCALED_OBJECT_KIND)
    settings = parse_autoscaler(ours)
    assert (settings.mode, settings.actuation) == (Mode.FULL, "External")
    assert theirs["spec"]["minReplicaCount"] == settings.objective.min_replicas
    assert theirs["spec"]["maxReplicaCount"] == settings.objective.max_replicas
    assert theirs["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert [t["type"] for t in theirs["spec"]["triggers"]] == ["external", "prometheus"]
    assert theirs["spec"]["triggers"][0]["metadata"]["autoscaler"] == ours["metadata"]["name"]
