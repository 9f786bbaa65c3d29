"""The CustomResourceDefinition of GPUAutoscaler, made of the typed models and the rules."""

from __future__ import annotations

from typing import Any

from controller.resource.group import CATEGORIES, GROUP, KIND, LIST_KIND, PLURAL, SHORT_NAMES, SINGULAR, VERSION
from controller.resource.rules import RULES
from controller.resource.schema import structural_schema
from controller.resource.spec import AutoscalerSpec
from controller.resource.status import Status

__all__ = ["crd_manifest"]


def crd_manifest() -> dict[str, Any]:
    """The whole definition as plain values; new ones each time, so a caller may add labels."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": LIST_KIND,
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": list(SHORT_NAMES),
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Scales a GPU service so that its objective is kept, with a stated risk, at the least cost.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this representation of the object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": structural_schema(AutoscalerSpec, RULES),
            "status": structural_schema(Status),
        },
    }


def _columns() -> list[dict[str, Any]]:
    def column(name: str, kind: str, path: str, description: str, priority: int = 0) -> dict[str, Any]:
        wide = {"priority": priority} if priority else {}
        return {"name": name, "type": kind, "jsonPath": path, "description": description, **wide}

    ready = '.status.conditions[?(@.type=="Ready")].status'
    decided = ".status.lastScaleDecision.reason"
    return [
        column("Target", "string", ".spec.scaleTargetRef.name", "What is scaled."),
        column("Mode", "string", ".spec.mode", "Authority that is granted."),
        column("Effective", "string", ".status.effectiveMode", "Authority in use after a step back.", 1),
        column("Min", "integer", ".spec.minReplicas", "Fewest replicas."),
        column("Max", "integer", ".spec.maxReplicas", "Most replicas."),
        column("Current", "integer", ".status.currentReplicas", "Replicas there are."),
        column("Recommended", "integer", ".status.recommendedReplicas", "Replicas that full authority would set."),
        column("PMiss", "number", ".status.violationProbability", "Stated probability of a violation."),
        column("Reason", "string", decided, "Why the last decision was made.", 1),
        column("Ready", "string", ready, "Whether the service is under control."),
        column("Age", "date", ".metadata.creationTimestamp", "How long it has existed."),
    ]
