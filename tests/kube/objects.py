"""Objects that tests send: the shortest valid ones."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def _metadata(name: str, namespace: str, labels: dict[str, str] | None) -> Json:
    return {"name": name, **({"namespace": namespace} if namespace else {}), **({"labels": labels} if labels else {})}


def deployment(
    name: str, namespace: str = "default", replicas: int = 1, labels: dict[str, str] | None = None, gpus: int = 0
) -> Json:
    """A Deployment whose pods carry app=<name> and want `gpus` GPUs each."""
    container: Json = {"name": "main", "image": "example.org/main:1"}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, namespace, labels),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }


def stateful_set(name: str, namespace: str = "default", replicas: int = 1) -> Json:
    made = deployment(name, namespace, replicas)
    made["kind"] = "StatefulSet"
    made["spec"]["serviceName"] = name
    return made


def pod(name: str, namespace: str = "default", labels: dict[str, str] | None = None, node: str = "") -> Json:
    spec: Json = {"containers": [{"name": "main", "image": "example.org/main:1"}]}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(name, namespace, labels), "spec": spec}


def node(name: str, gpu: str = "NVIDIA-H100-80GB-HBM3", gpus: int = 8) -> Json:
    """A Node as the GPU feature discovery labels it."""
    amounts = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": gpu, "nvidia.com/gpu.count": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata(name, "", labels),
        "status": {"capacity": amounts, "allocatable": dict(amounts), "conditions": [ready]},
    }


def hpa(
    name: str, target: str, namespace: str = "default", most: int = 10, annotations: dict[str, str] | None = None
) -> Json:
    metadata = _metadata(name, namespace, None)
    if annotations:
        metadata["annotations"] = annotations
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "maxReplicas": most,
            "metrics": [cpu],
        },
    }


def lease(name: str, holder: str, namespace: str = "default") -> Json:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": _metadata(name, namespace, None),
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    }


def widget_crd() -> Json:
    """A custom kind with every feature of schemas that the tests pin."""
    integer = {"type": "integer", "format": "int32"}
    mode = {"type": "string", "enum": ["Observe", "Full"], "default": "Observe"}
    part = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}, "weight": {"type": "number"}},
    }
    spec = {
        "type": "object",
        "required": ["most"],
        "properties": {
            "mode": mode,
            "least": integer | {"default": 1, "minimum": 0},
            "most": integer | {"minimum": 1, "maximum": 1000},
            "epsilon": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5},
            "target": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 20},
            "fixed": {
                "type": "string",
                "maxLength": 20,
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}],
            },
            "limits": {"type": "object", "default": {}, "properties": {"step": integer | {"default": 60}}},
            "parts": {
                "type": "array",
                "maxItems": 3,
                "items": part,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "learned": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
        "x-kubernetes-validations": [
            {"rule": "self.most >= self.least", "message": "most must not be below least", "fieldPath": ".most"},
            {"rule": "!has(self.epsilon) || self.epsilon < 0.4", "message": "epsilon must stay below 0.4"},
        ],
    }
    status = {
        "type": "object",
        "properties": {"replicas": integer, "selector": {"type": "string"}, "note": {"type": "string"}},
    }
    root = {"type": "object", "properties": {"spec": spec, "status": status}}
    scale = {
        "specReplicasPath": ".spec.most",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}, "scale": scale},
    }
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def widget(name: str = "one", namespace: str = "default", **spec: Any) -> Json:
    return {
        "apiVersion": "example.org/v1",
        "kind": "Widget",
        "metadata": _metadata(name, namespace, None),
        "spec": {"most": 5} | spec,
    }
