"""Every sensible choice of values gives objects that the API server would take."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

import harmony
from tests.helm.chart import (
    CHART,
    JOURNAL_FOLDER,
    NAMESPACE,
    ROOT,
    container,
    documents,
    environment,
    files,
    notes,
    of_kind,
    one,
)
from tests.helm.matrix import EVERYTHING, MATRIX

CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_lint_is_clean(values: dict[str, Any]) -> None:
    from helm_python.chart import lint

    report = lint(CHART, values=values, strict=True, namespace=NAMESPACE, kube_version="v1.29.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@cache
def validated(doc: str) -> None:
    """Raise unless Kubernetes takes it; the same object stands in many renderings and is looked at once."""
    kubernetes_validate.validate(json.loads(doc), "1.36", strict=True)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_every_object_is_valid(values: dict[str, Any]) -> None:
    docs = documents(values)
    for doc in docs:
        if doc["kind"] not in CUSTOM:
            validated(json.dumps(doc))
    for doc in docs:
        assert len(doc["metadata"]["name"].rpartition(":")[2]) <= 63, doc["metadata"]["name"]


def test_objects_have_different_names() -> None:
    docs = documents(EVERYTHING)
    names = [(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in docs]
    assert len(set(names)) == len(names)


def test_two_releases_of_one_name_share_no_cluster_scoped_object() -> None:
    def cluster_scoped(namespace: str) -> set[tuple[str, str]]:
        docs = documents({"crds": {"install": False}}, namespace=namespace)
        return {(d["kind"], d["metadata"]["name"]) for d in docs if "namespace" not in d["metadata"]}

    assert cluster_scoped("a")
    assert not cluster_scoped("a") & cluster_scoped("b")


def test_versions_agree() -> None:
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert meta["appVersion"] == harmony.__version__
    assert container(documents())["image"] == f"ghcr.io/harmony-autoscaler/harmony:{harmony.__version__}"


def test_image_spellings() -> None:
    digest = MATRIX["digest"]["image"]["digest"]
    assert container(documents(MATRIX["digest"]))["image"] == f"ghcr.io/harmony-autoscaler/harmony@{digest}"
    assert container(documents(MATRIX["gpu"]))["image"].endswith(f":{harmony.__version__}-gpu")
    assert container(documents({"image": {"tag": "edge"}}))["image"].endswith(":edge")


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_pod_is_hardened(values: dict[str, Any]) -> None:
    docs = documents(values)
    pod = one(docs, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(docs)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in container(docs)["volumeMounts"]
    caches = {e["name"]: e.get("value", "") for e in container(docs)["env"]}
    for name in ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert caches[name].startswith("/tmp")
    assert caches["OMP_NUM_THREADS"] == "1"


class Started(NamedTuple):
    """What the program begins with: the loop's settings, and with the API what its server is told and its journal."""

    loop: Any
    server: Any = None
    store: Any = None


def started(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Started:
    """What the program really starts with, given the rendered arguments and environment."""
    import controller.runner
    from harmony.app import serving
    from harmony.cli.main import run as run_cli

    began: list[Started] = []

    async def run(settings: Any) -> None:
        began.append(Started(settings))

    def run_api(server: Any, store: Any, source: Any) -> int:
        began.append(Started(source.settings, server, store.where))
        return 0

    monkeypatch.setattr(controller.runner, "run_controller", run)
    monkeypatch.setattr(serving, "run", run_api)
    for name in [name for name in os.environ if name.startswith("HARMONY_")]:
        monkeypatch.delenv(name)
    spec = container(documents(values))
    for name, text in environment(spec, {"journal": f"sqlite:///{folder}/of-the-secret.db"}).items():
        monkeypatch.setenv(name, text.replace(JOURNAL_FOLDER, str(folder)))
    monkeypatch.setattr("controller.process.logs.configure", lambda *_: None)
    assert run_cli(spec["args"]) == 0
    return began[0]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_program_accepts_what_the_chart_says(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = started(values, monkeypatch, tmp_path)
    loop, chosen, api = found.loop, values.get("controller", {}), values.get("api", {})
    assert loop.dry_run == chosen.get("dryRun", False)
    assert bool(loop.keda_address) == values.get("keda", {}).get("enabled", False)
    assert loop.namespaces == tuple(values.get("watch", {}).get("namespaces", ()))
    assert loop.elects == chosen.get("leaderElection", {}).get("enabled", True)
    assert (loop.metrics_address, loop.health_address) == (":8080", ":8081")
    assert (loop.lease_namespace, loop.lease_name.endswith("-controller")) == (NAMESPACE, True)
    assert (found.server is not None) == api.get("enabled", False)
    if api.get("enabled"):
        assert found.server.where == ":8000"
        assert (found.server.door.insecure, found.server.door.wait_for_key) == (False, True), (
            "nobody is let in without a key"
        )
        groups = api.get("tokenReview", {})
        assert len(found.server.groups) == sum(map(len, groups.values()))
        assert (found.server.review is not None) == bool(groups)


def test_the_same_settings_reach_the_loop_with_the_api_and_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = {**EVERYTHING, "api": {}}
    assert started(alone, monkeypatch, tmp_path).loop == started(EVERYTHING, monkeypatch, tmp_path).loop


def test_the_door_and_the_journal_are_those_of_the_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harmony.api.roles import Role

    found = started(EVERYTHING, monkeypatch, tmp_path)
    assert found.server.groups == {"developers": Role.READ, "oncall": Role.OPERATE, "platform": Role.ADMIN}
    assert (found.server.door.rate, found.server.door.cors_origins) == (50.0, ("https://portal.example.com",))
    assert found.store.endswith("of-the-secret.db")
    assert started(MATRIX["api"], monkeypatch, tmp_path).store.endswith("journal.db")


def test_arguments_of_the_user_come_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"controller": {"extraArgs": ["--journal=/data/journal.jsonl", "--interval=45s"]}}
    loop = started(values, monkeypatch, tmp_path).loop
    assert (loop.journal, loop.interval_s) == ("/data/journal.jsonl", 45.0)


def test_the_program_starts_with_the_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = started(EVERYTHING, monkeypatch, tmp_path).loop
    assert settings.prometheus.url == "https://thanos.monitoring:10902/api"
    assert settings.prometheus.params == (("dedup", "true"), ("tenant", "a-b"))
    assert settings.prometheus.token_file == "/etc/harmony/prometheus-token/token"
    assert settings.prometheus.ca_file == "/etc/harmony/prometheus-ca/ca.crt"
    assert settings.prometheus.headers == (("X-Scope-OrgID", "team-a|team-b"),)
    assert settings.prometheus.cert_file == "/etc/harmony/prometheus-client/tls.crt"
    assert settings.prometheus.key_file == "/etc/harmony/prometheus-client/tls.key"
    assert settings.prometheus.proxy == "http://proxy:3128"
    assert settings.namespaces == ("serving", "batch")
    assert settings.selector == "shard=a,tier!=dev"
    assert (settings.lease_namespace, settings.lease_name) == (NAMESPACE, "harmony-controller")
    assert (settings.metrics_address, settings.health_address, settings.keda_address) == (":8080", ":8081", ":9090")
    assert settings.keda_cert_file == "/etc/harmony/keda-tls/tls.crt"
    assert settings.keda_ca_file == "/etc/harmony/keda-tls/ca.crt"
    assert (settings.interval_s, settings.forecaster) == (45.0, "base")
    assert (settings.log_format, settings.log_level) == ("json", "info")


def test_token_and_ca_of_the_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = started(MATRIX["token of the pod"], monkeypatch, tmp_path).loop
    assert settings.prometheus.token_file == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert settings.prometheus.ca_file == "/etc/ssl/service-ca.crt"


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_what_is_mounted_exists_and_ports_meet(values: dict[str, Any]) -> None:
    docs = documents(values)
    pod = one(docs, "Deployment")["spec"]["template"]["spec"]
    assert {m["name"] for m in container(docs)["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    ports = {p["name"] for p in container(docs)["ports"]}
    for service in of_kind(docs, "Service"):
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container(docs)[probe]["httpGet"]["port"] in ports


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_selectors_meet_the_pods(values: dict[str, Any]) -> None:
    docs = documents(values)
    deployment = one(docs, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [s["spec"]["selector"] for s in of_kind(docs, "Service")]
    selectors += [s["spec"]["selector"]["matchLabels"] for s in of_kind(docs, "PodDisruptionBudget")]
    selectors += [s["spec"]["podSelector"]["matchLabels"] for s in of_kind(docs, "NetworkPolicy")]
    selectors += [s["spec"]["selector"]["matchLabels"] for s in of_kind(docs, "PodMonitor")]
    for selector in selectors:
        assert selector.items() <= labels.items()
    metrics = one(docs, "Service", "-metrics")["metadata"]["labels"]
    for monitor in of_kind(docs, "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics.items()
        assert all(e["honorLabels"] for e in monitor["spec"]["endpoints"])


def test_gpu_is_asked_for_and_limited_alike() -> None:
    resources = container(documents(MATRIX["gpu"]))["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "2"
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("1Gi", "2Gi")
    assert "cpu" not in resources["limits"]


def test_network_policy_opens_what_is_used_and_no_more() -> None:
    policy = one(documents(MATRIX["network policy"]), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} == {"health", "metrics"}
    assert {p["port"] for rule in policy["egress"] for p in rule["ports"]} == {53, 443, 6443, 9090}
    with_api = one(documents(MATRIX["api"]), "NetworkPolicy")["spec"]
    assert {p["port"] for rule in with_api["ingress"] for p in rule["ports"]} == {"health", "metrics", "api"}
    assert {p["port"] for rule in with_api["egress"] for p in rule["ports"]} == {53, 443, 6443, 9090}
    narrowed = one(documents(EVERYTHING), "NetworkPolicy")["spec"]
    (database,) = [rule for rule in narrowed["egress"] if rule["ports"] == [{"port": 5432, "protocol": "TCP"}]]
    assert set(database["to"][0]) == {"namespaceSelector", "podSelector"}
    (door,) = [rule for rule in narrowed["ingress"] if rule["ports"] == [{"port": "api", "protocol": "TCP"}]]
    assert door["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}
    assert {"ports": [{"port": 6443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]} in narrowed[
        "egress"
    ]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_a_file_has_one_writer_and_a_database_many(values: dict[str, Any]) -> None:
    docs = documents(values)
    spec, api = one(docs, "Deployment")["spec"], values.get("api", {})
    count = values.get("controller", {}).get("replicaCount", 2)
    is_file = api.get("enabled", False) and "existingSecret" not in api.get("journal", {})
    assert spec["replicas"] == (1 if is_file else count)
    assert spec["strategy"]["type"] == ("Recreate" if is_file else "RollingUpdate")
    assert ("rollingUpdate" in spec["strategy"]) != is_file
    assert [s["metadata"]["name"][-4:] for s in of_kind(docs, "Service")].count("-api") == api.get("enabled", False)
    given = {e["name"]: e for e in container(docs)["env"]}
    if not api.get("enabled"):
        assert "HARMONY_JOURNAL_URL" not in given
    elif is_file:
        assert given["HARMONY_JOURNAL_URL"]["value"] == f"sqlite:///{JOURNAL_FOLDER}/journal.db"
        assert {"name": "journal", "mountPath": JOURNAL_FOLDER} in container(docs)["volumeMounts"]
    else:
        assert given["HARMONY_JOURNAL_URL"]["valueFrom"]["secretKeyRef"]["name"] == api["journal"]["existingSecret"]


def test_no_pods_at_all_is_still_none() -> None:
    values = {"api": {"enabled": True}, "controller": {"replicaCount": 0}}
    assert one(documents(values), "Deployment")["spec"]["replicas"] == 0


def test_where_the_journal_lies() -> None:
    def volume(name: str) -> dict[str, Any]:
        pod = one(documents(MATRIX[name]), "Deployment")["spec"]["template"]["spec"]
        return next(dict(v) for v in pod["volumes"] if v["name"] == "journal")

    (claim,) = of_kind(documents(MATRIX["api"]), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert volume("api")["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert volume("api with a claim of ours")["persistentVolumeClaim"] == {"claimName": "old"}
    assert "emptyDir" in volume("api without a volume")
    for name in ("api with a claim of ours", "api without a volume", "api on postgresql", "default"):
        assert not of_kind(documents(MATRIX[name]), "PersistentVolumeClaim"), name


def test_notes_say_how_the_first_key_is_made() -> None:
    text = notes(MATRIX["api"])
    assert (
        "kubectl exec --namespace autoscaling deploy/harmony-controller -- harmony keys create me --role admin" in text
    )
    assert "kubectl port-forward --namespace autoscaling service/harmony-api 8000" in text
    assert "one pod runs instead of 2" in text
    assert "kept when the release is uninstalled" in text
    assert "create token" not in text
    assert "system:serviceaccounts:monitoring" in notes(MATRIX["api with tokens"])
    assert "kubectl create token" in notes(MATRIX["api with tokens"])
    assert "end with the pod" in notes(MATRIX["api without a volume"])
    assert "one pod runs" not in notes(MATRIX["api on postgresql"])
    assert "keys create" not in notes()
    assert "No NetworkPolicy is made" in notes()
    assert "No NetworkPolicy is made" not in notes({"networkPolicy": {"enabled": True}})
    assert "asks in plain text" in notes({"keda": {"enabled": True}})
    assert "asks in plain text" not in notes({"keda": {"enabled": True, "tls": {"existingSecret": "keda-tls"}}})


def test_notes_name_what_was_installed() -> None:
    text = notes(name="gpu-scaler", namespace="ops")
    assert "kubectl exec --namespace ops deploy/gpu-scaler-harmony-controller -- harmony doctor" in text
    assert "mode: Recommend" in text
    assert "kubectl get gpa" in text
    assert "No prometheus.url was given" in text
    watched = notes(EVERYTHING)
    assert "kubectl apply --namespace serving" in watched
    assert "shard=a,tier!=dev" in watched
    assert "harmony-keda.autoscaling:9090" in watched
    assert "No prometheus.url was given" not in watched
    dry = notes(MATRIX["dry run"])
    assert "nothing is written to the cluster" in dry
    assert "kubectl logs" in dry
    assert "kubectl get gpa" not in dry, "no status is written in a dry run"


def test_object_of_the_notes_is_accepted() -> None:
    from controller.resource.parsing import parse_autoscaler

    text = notes(MATRIX["default"])
    body = "\n".join(line[2:] for line in text.split("<<'EOF'\n")[1].split("\n  EOF")[0].splitlines())
    obj = yaml.safe_load(body)
    obj["metadata"] |= {"namespace": "default", "uid": "1", "generation": 1}
    settings = parse_autoscaler(obj)
    assert settings.target.name == "chat"
    assert str(settings.mode) == "Recommend"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prometheus": {"tokenFile": "/a", "existingSecret": "b"}}, "both name a token"),
        ({"prometheus": {"caFile": "/a", "existingConfigMap": "b"}}, "both name a CA bundle"),
        ({"prometheus": {"certFile": "/a", "clientSecret": "b"}}, "both name a client certificate"),
        ({"prometheus": {"keyFile": "/a"}}, "give prometheus.certFile too"),
        ({"controller": {"leaderElection": {"enabled": False}}}, "2 controllers would write at once"),
        ({"api": {"enabled": True}, "controller": {"extraArgs": ["--journal=x.jsonl"]}}, "use api.journal"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], message: str) -> None:
    from helm_python.errors import HelmError

    with pytest.raises(HelmError, match=message):
        files(values)


def test_crd_is_the_one_that_the_code_makes() -> None:
    from controller.resource.crd import crd_manifest

    generated = crd_manifest()
    assert yaml.safe_load((CHART / "files" / "crd.yaml").read_text()) == generated, (
        "run: harmony crd > helm/harmony/files/crd.yaml"
    )
    rendered = one(documents(), "CustomResourceDefinition")
    assert rendered["spec"] == generated["spec"]
    assert rendered["metadata"]["name"] == generated["metadata"]["name"]


def test_chart_holds_no_samples() -> None:
    assert {d["kind"] for d in documents()} == {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    assert not (ROOT / "helm" / "harmony" / "crds").exists()  # Helm never upgrades what lies there
