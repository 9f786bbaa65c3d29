"""values.yaml, its schema and the templates agree: nothing undocumented, nothing unused, no typo accepted."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helm.chart import CHART, files
from tests.helm.matrix import EVERYTHING, MATRIX

Path = tuple[str, ...]
SCHEMA: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

ON_A_VOLUME: dict[str, Any] = {"api": {"journal": {"existingSecret": ""}}}

# What must be chosen besides EVERYTHING for a value to have an effect, and the value to try.
CONTEXT: dict[str, tuple[dict[str, Any], Any]] = {
    "watch.namespaces": ({}, ["other"]),
    "image.tag": ({}, "edge"),
    "image.digest": ({}, MATRIX["digest"]["image"]["digest"]),
    "image.pullPolicy": ({}, "Always"),
    "prometheus.url": ({}, "http://other:9090"),
    "prometheus.tokenFile": ({"prometheus": {"existingSecret": ""}}, "/var/token"),
    "prometheus.caFile": ({"prometheus": {"existingConfigMap": ""}}, "/var/ca.crt"),
    "prometheus.certFile": ({"prometheus": {"clientSecret": ""}}, "/var/tls.crt"),
    "prometheus.keyFile": ({"prometheus": {"clientSecret": "", "certFile": "/var/tls.crt"}}, "/var/tls.key"),
    "prometheus.proxy": ({}, "http://other:3128"),
    "controller.interval": ({}, "1m"),
    "controller.logLevel": ({}, "debug"),
    "controller.logFormat": ({}, "text"),
    "controller.leaderElection.enabled": ({"controller": {"replicaCount": 1}}, False),
    "controller.gpu.resourceName": ({}, "amd.com/gpu"),
    "controller.tmpSizeLimit": ({}, "1Gi"),
    "controller.extraArgs": ({}, ["--seed=1"]),
    "keda.service.type": ({}, "LoadBalancer"),
    "api.corsOrigins": ({}, ["https://other.example.com"]),
    "api.tokenReview.readGroups": ({}, ["others"]),
    "api.tokenReview.operateGroups": ({}, ["others"]),
    "api.tokenReview.adminGroups": ({}, ["others"]),
    "api.journal.persistence.enabled": (ON_A_VOLUME, False),
    "api.journal.persistence.existingClaim": (ON_A_VOLUME, "mine"),
    "api.journal.persistence.size": (ON_A_VOLUME, "9Gi"),
    "api.journal.persistence.storageClass": (ON_A_VOLUME, "fast"),
    "api.journal.persistence.accessModes": (ON_A_VOLUME, ["ReadWriteOncePod"]),
    "api.journal.persistence.annotations": (ON_A_VOLUME, {"a": "b"}),
    "api.journal.persistence.keep": (ON_A_VOLUME, False),
    "api.service.type": ({}, "LoadBalancer"),
    "rbac.nodes": ({}, False),
    "podDisruptionBudget.maxUnavailable": ({"podDisruptionBudget": {"minAvailable": ""}}, 2),
    "podDisruptionBudget.minAvailable": ({}, 1),
    "networkPolicy.apiServer.cidrs": ({}, ["10.0.0.2/32"]),
    "monitoring.prometheusRule.disabledAlerts": ({}, ["HarmonyNoLeader"]),
    "monitoring.prometheusRule.runbookBaseUrl": ({}, "https://wiki/runbooks"),
    "rbac.scaledRefKinds": ({}, [{"apiGroup": "example.com", "resources": ["things"]}]),
    "global.imagePullSecrets": ({}, [{"name": "other"}]),
    "controller.tolerations": ({}, [{"key": "other", "operator": "Exists"}]),
    "controller.topologySpreadConstraints": ({}, []),
    "controller.affinity": ({}, {"podAffinity": {}}),
    "controller.resources": ({}, {"limits": {"memory": "9Gi"}}),
    "controller.livenessProbe": ({}, {"periodSeconds": 7}),
    "controller.readinessProbe": ({}, {"periodSeconds": 7}),
    "controller.startupProbe": ({}, {"periodSeconds": 7}),
    "controller.env": ({}, [{"name": "A", "value": "b"}]),
    "controller.volumes": ({}, [{"name": "other", "emptyDir": {}}]),
    "controller.volumeMounts": ({}, [{"name": "other", "mountPath": "/other"}]),
    "controller.podSecurityContext": ({}, {"fsGroup": 1}),
    "controller.securityContext": ({}, {"runAsUser": 1}),
    "networkPolicy.metricsNamespaceSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.kedaNamespaceSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.prometheus.namespaceSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.prometheus.podSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.apiNamespaceSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.journal.namespaceSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.journal.podSelector": ({}, {"matchLabels": {"a": "b"}}),
    "networkPolicy.extraIngress": ({}, [{"ports": [{"port": 1}]}]),
    "networkPolicy.extraEgress": ({}, [{"ports": [{"port": 1}]}]),
    "extraObjects": ({}, ["{kind: ConfigMap, apiVersion: v1, metadata: {name: z}}"]),
}


def documented() -> Iterator[Path]:
    """Every value under a `# --` comment."""
    stack: list[str] = []
    comment = False
    for line in (CHART / "values.yaml").read_text().splitlines():
        if re.match(r" *# -- ", line):
            comment = True
        elif found := re.match(r"( *)([A-Za-z]+):", line):
            stack = [*stack[: len(found[1]) // 2], found[2]]
            if comment:
                yield tuple(stack)
            comment = False


def leaves(values: dict[str, Any], at: Path = ()) -> Iterator[Path]:
    """Every value of values.yaml that is not a section, down to the documented ones."""
    for key, value in values.items():
        here = (*at, key)
        if here in DOCUMENTED or not isinstance(value, dict):
            yield here
        else:
            yield from leaves(value, here)


DOCUMENTED = set(documented())


def lookup(values: dict[str, Any], path: Path) -> Any:
    for key in path:
        values = values[key]
    return values


def replaced(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    out = copy.deepcopy(values)
    node = out
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    return out


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for key, value in over.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def another(value: Any) -> Any:
    """A different value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value.removesuffix('s')}1s" if re.fullmatch(r"\d+s", value) else f"{value or 'x'}9"
    if isinstance(value, dict):
        return {**value, "flipped": "yes"}
    if value and isinstance(value[0], int):
        return [1]
    raise AssertionError(f"give CONTEXT a value to try instead of {value!r}")


def test_every_value_has_a_comment() -> None:
    assert set(leaves(DEFAULTS)) == DOCUMENTED
    assert len(DOCUMENTED) > 80


@pytest.mark.parametrize("path", sorted(DOCUMENTED), ids=".".join)
def test_every_value_changes_the_render(path: Path) -> None:
    context, tried = CONTEXT.get(".".join(path), ({}, None))
    base = merged(EVERYTHING, context)
    present = lookup(merged(DEFAULTS, base), path)
    flipped = replaced(base, path, another(present) if tried is None else tried)
    assert files(flipped) != files(base), f"{'.'.join(path)} is documented, and no template reads it"


def sections(schema: dict[str, Any], at: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    if "properties" in schema:
        yield at, schema
        for key, value in schema["properties"].items():
            yield from sections(value, (*at, key))


def test_schema_is_a_schema_and_closed_at_every_level() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    open_ones = {at for at, schema in sections(SCHEMA) if schema.get("additionalProperties") is not False}
    assert open_ones == {("global",)}  # shared with parent charts, so it cannot be closed


def test_schema_and_values_name_the_same_things() -> None:
    for path in DOCUMENTED:
        node = SCHEMA
        for key in path:
            node = node["properties"][key]
        assert node["description"], path
    for at, schema in sections(SCHEMA):
        values = DEFAULTS if not at else lookup(DEFAULTS, at)
        if at not in DOCUMENTED:
            assert set(schema["properties"]) == set(values), at


@pytest.mark.parametrize("values", [DEFAULTS, *MATRIX.values()])
def test_schema_accepts_sensible_values(values: dict[str, Any]) -> None:
    jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        ({"replicas": 3}, "at '': ", "replicas"),
        ({"controller": {"replicas": 3}}, "at '/controller'", "replicas"),
        ({"controller": {"replicaCount": "3"}}, "at '/controller/replicaCount'", "integer"),
        ({"controller": {"interval": "30"}}, "at '/controller/interval'", "pattern"),
        ({"controller": {"logLevel": "verbose"}}, "at '/controller/logLevel'", "one of"),
        ({"controller": {"livenessProbe": {"period": 1}}}, "at '/controller/livenessProbe'", "period"),
        ({"controller": {"ports": {"metrics": 80}}}, "at '/controller/ports/metrics'", "minimum"),
        ({"keda": {"enable": True}}, "at '/keda'", "enable"),
        ({"keda": {"tls": {"secret": "x"}}}, "at '/keda/tls'", "secret"),
        ({"api": {"enable": True}}, "at '/api'", "enable"),
        ({"api": {"port": 80}}, "at '/api/port'", "minimum"),
        ({"api": {"tokenReview": {"groups": ["a"]}}}, "at '/api/tokenReview'", "groups"),
        ({"api": {"tokenReview": {"readGroups": ["a b"]}}}, "at '/api/tokenReview/readGroups/0'", "pattern"),
        ({"api": {"journal": {"url": "postgresql://x"}}}, "at '/api/journal'", "url"),
        ({"api": {"journal": {"persistence": {"size": "big"}}}}, "at '/api/journal/persistence/size'", "pattern"),
        ({"api": {"corsOrigins": ["*"]}}, "at '/api/corsOrigins/0'", "pattern"),
        ({"watch": {"namespaces": "serving"}}, "at '/watch/namespaces'", "array"),
        ({"watch": {"namespaces": ["a", "a"]}}, "at '/watch/namespaces'", "equal"),
        ({"watch": {"namespaces": ["Not_A_Namespace"]}}, "at '/watch/namespaces/0'", "pattern"),
        ({"prometheus": {"url": "prometheus:9090"}}, "at '/prometheus/url'", "pattern"),
        ({"prometheus": {"queryParams": {"dedup": True}}}, "at '/prometheus/queryParams/dedup'", "string"),
        ({"prometheus": {"queryParams": {"tenant": "a b"}}}, "at '/prometheus/queryParams/tenant'", "pattern"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'", "pattern"),
        ({"rbac": {"scaledRefKinds": [{"group": "apps", "resources": ["x"]}]}}, "at '/rbac/scaledRefKinds/0'", "group"),
        (
            {"monitoring": {"prometheusRule": {"disabledAlerts": ["HarmonyNoLeeder"]}}},
            "at '/monitoring/prometheusRule/disabledAlerts/0'",
            "one of",
        ),
        ({"networkPolicy": {"apiServer": {"ports": []}}}, "at '/networkPolicy/apiServer/ports'", "minItems"),
    ],
)
def test_typos_are_refused_with_their_path(values: dict[str, Any], where: str, what: str) -> None:
    from helm_python.errors import HelmValuesError

    with pytest.raises(HelmValuesError) as refusal:
        files(values)
    assert where in str(refusal.value)
    assert what in str(refusal.value)
