"""Values that a person may well choose, by name: each is rendered and validated."""

from __future__ import annotations

from typing import Any

__all__ = ["EVERYTHING", "MATRIX"]

SELECTOR = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}

EVERYTHING: dict[str, Any] = {
    "global": {"imagePullSecrets": [{"name": "registry-login"}]},
    "commonLabels": {"team": "serving"},
    "watch": {"namespaces": ["serving", "batch"], "selector": "shard=a,tier!=dev"},
    "prometheus": {
        "url": "https://thanos.monitoring:10902/api",
        "existingSecret": "prometheus-token",
        "existingConfigMap": "ca",
        "queryParams": {"dedup": "true", "tenant": "a-b"},
        "headers": {"X-Scope-OrgID": "team-a|team-b"},
        "clientSecret": "prometheus-client",
        "proxy": "http://proxy:3128",
    },
    "controller": {
        "replicaCount": 3,
        "gpu": {"enabled": True},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "priorityClassName": "system-cluster-critical",
        "extraArgs": ["--interval=45s"],
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "podAnnotations": {"example.com/scraped": "no"},
        "podLabels": {"zone": "a"},
        "service": {"annotations": {"example.com/owner": "sre"}},
    },
    "keda": {
        "enabled": True,
        "tls": {"existingSecret": "keda-tls", "verifyClients": True},
        "service": {"annotations": {"example.com/owner": "sre"}},
    },
    "api": {
        "enabled": True,
        "corsOrigins": ["https://portal.example.com"],
        "tokenReview": {"readGroups": ["developers"], "operateGroups": ["oncall"], "adminGroups": ["platform"]},
        "journal": {"existingSecret": "journal"},
        "service": {"annotations": {"example.com/owner": "sre"}},
    },
    "serviceAccount": {"annotations": {"example.com/role": "reader"}},
    "rbac": {"capacityBuffers": True, "clusterReads": True},
    "networkPolicy": {
        "enabled": True,
        "metricsNamespaceSelector": SELECTOR,
        "kedaNamespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}},
        "apiNamespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}},
        "journal": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "databases"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "postgresql"}},
        },
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
        "prometheus": {
            "namespaceSelector": SELECTOR,
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "thanos"}},
            "ports": [10902],
        },
        "extraIngress": [{"ports": [{"port": 9999, "protocol": "TCP"}]}],
        "extraEgress": [{"ports": [{"port": 9999, "protocol": "TCP"}]}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "alertLabels": {"team": "serving"},
            "disabledAlerts": ["HarmonyForecastStale"],
        },
    },
    "grafana": {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "Autoscaling"}}},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}",
    ],
}

MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "namespaced": {"watch": {"namespaces": ["serving"]}, "rbac": {"aggregateToDefaultRoles": False}},
    "minimal": {
        "crds": {"install": False},
        "controller": {"replicaCount": 1, "leaderElection": {"enabled": False}},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "made-by-hand"},
        "podDisruptionBudget": {"enabled": False},
    },
    "keda": {"keda": {"enabled": True}},
    "keda with tls": {"keda": {"enabled": True, "port": 9443, "tls": {"existingSecret": "keda-tls"}}},
    "api": {"api": {"enabled": True}, "networkPolicy": {"enabled": True}},
    "api with tokens": {"api": {"enabled": True, "tokenReview": {"readGroups": ["system:serviceaccounts:monitoring"]}}},
    "api in one namespace": {
        "api": {"enabled": True, "tokenReview": {"adminGroups": ["platform"]}},
        "watch": {"namespaces": ["serving"]},
        "keda": {"enabled": True},
    },
    "api on postgresql": {
        "api": {"enabled": True, "journal": {"existingSecret": "journal", "existingSecretKey": "dsn"}}
    },
    "api with a claim of ours": {"api": {"enabled": True, "journal": {"persistence": {"existingClaim": "old"}}}},
    "api without a volume": {"api": {"enabled": True, "journal": {"persistence": {"enabled": False}}}},
    "api of a dry run": {"api": {"enabled": True}, "controller": {"dryRun": True}},
    "digest": {"image": {"digest": "sha256:" + "0a" * 32}},
    "dry run": {"controller": {"dryRun": True}},
    "gpu": {"controller": {"gpu": {"enabled": True, "count": 2}}},
    "network policy": {"networkPolicy": {"enabled": True}},
    "monitored": {
        "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        "grafana": {"dashboards": {"enabled": True}},
    },
    "token of the pod": {
        "prometheus": {
            "url": "https://prometheus-k8s.openshift-monitoring:9091",
            "tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "caFile": "/etc/ssl/service-ca.crt",
        }
    },
    "names": {"nameOverride": "autoscaler", "fullnameOverride": "x" * 63, "commonLabels": {"team": "a"}},
    "budget in percent": {"podDisruptionBudget": {"minAvailable": "50%"}},
    "no floor, no keda": {"rbac": {"floor": False, "keda": False, "nodes": False}},
}
