"""What the person who runs the controller chooses, one class per concern; `ControllerSettings` is all of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Self

from forecasting.errors import UsageError
from harmony.settings import Setting, Value

__all__ = [
    "ActingSettings",
    "AddressSettings",
    "ControllerSettings",
    "ForecasterSettings",
    "KedaSettings",
    "KubernetesSettings",
    "LogSettings",
    "LoopSettings",
    "PrometheusSettings",
    "WatchSettings",
]

LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")
NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
FILE = {"pattern": r"^$|^/[^\s]*$"}
PORT = {"minimum": 1024, "maximum": 65_535}
DURATION = {"pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"}


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """How to reach the Prometheus that objects use unless they name their own; ``timeout_s`` is of one query."""

    url: Annotated[
        str,
        Setting(
            "Address of the Prometheus that objects use unless they name their own, as `http://prometheus.monitoring:9090`.",
            flag="prometheus-url",
            value=Value("prometheus.url", schema={"pattern": r"^$|^https?://[^\s]+$"}, shared=True),
        ),
    ] = ""
    token_file: Annotated[
        str,
        Setting(
            "Bearer token file, read again for each request because mounted tokens rotate.",
            flag="prometheus-token-file",
            value=Value(
                "prometheus.tokenFile",
                "Bearer token file that is already in the pod, for example the service account's own token. Read again "
                "per request.",
                schema=FILE,
                template="harmony.prometheusTokenFile",
                shared=True,
            ),
        ),
    ] = ""
    ca_file: Annotated[
        str,
        Setting(
            "Certificates to trust besides the system's.",
            flag="prometheus-ca-file",
            value=Value(
                "prometheus.caFile",
                "CA bundle file that is already in the pod.",
                schema=FILE,
                template="harmony.prometheusCaFile",
                shared=True,
            ),
        ),
    ] = ""
    params: Annotated[
        tuple[tuple[str, str], ...],
        Setting(
            "KEY=VALUE added to every query (repeat), for multi-tenant Thanos or Mimir.",
            flag="prometheus-query-param",
            value=Value(
                "prometheus.queryParams",
                'Query parameters added to every request, as `dedup: "true"`; multi-tenant Thanos and Mimir ask for '
                "them. Without spaces.",
                schema={
                    "propertyNames": {"pattern": r"^[^\s=]+$"},
                    "additionalProperties": {"type": "string", "pattern": r"^\S*$"},
                },
                shared=True,
            ),
        ),
    ] = ()
    headers: Annotated[
        tuple[tuple[str, str], ...],
        Setting(
            "NAME=VALUE sent as a header with every query (repeat), such as X-Scope-OrgID=team-a for a tenant of Mimir "
            "or Cortex; a value @FILE is read from a file per request.",
            flag="prometheus-header",
            value=Value(
                "prometheus.headers",
                "Headers sent with every request, as `X-Scope-OrgID: team-a` for a tenant of Mimir or Cortex; a value "
                "`@/path` is read from a file of the pod per request. Without spaces.",
                schema={
                    "propertyNames": {"pattern": r"^[^\s=]+$"},
                    "additionalProperties": {"type": "string", "pattern": r"^\S+$"},
                },
                shared=True,
            ),
        ),
    ] = ()
    cert_file: Annotated[
        str,
        Setting(
            "Client certificate (PEM) for a Prometheus behind mutual TLS, read again when it changes.",
            flag="prometheus-cert-file",
            value=Value(
                "prometheus.certFile",
                "Client certificate file (PEM) that is already in the pod, for mutual TLS.",
                schema=FILE,
                template="harmony.prometheusCertFile",
                shared=True,
            ),
        ),
    ] = ""
    key_file: Annotated[
        str,
        Setting(
            "Key of the client certificate (PEM), where it is a file of its own.",
            flag="prometheus-key-file",
            value=Value(
                "prometheus.keyFile",
                "File of its key that is already in the pod.",
                schema=FILE,
                template="harmony.prometheusKeyFile",
                shared=True,
            ),
        ),
    ] = ""
    proxy: Annotated[
        str,
        Setting(
            "HTTP proxy that queries go through, such as `http://proxy:3128`.",
            flag="prometheus-proxy",
            value=Value("prometheus.proxy", schema={"pattern": r"^$|^http://[^\s]+$"}, shared=True),
        ),
    ] = ""
    timeout_s: float = 10.0


@dataclass(frozen=True)
class KubernetesSettings:
    """How to reach the API server; empty means in-cluster, else the usual kubeconfig."""

    kubeconfig: Annotated[str, Setting("Kubeconfig file; in-cluster or the usual one by default.")] = ""
    context: Annotated[str, Setting("Context of the kubeconfig.")] = ""


@dataclass(frozen=True)
class WatchSettings:
    """Which objects this process serves."""

    namespaces: Annotated[
        tuple[str, ...],
        Setting(
            "Namespace to watch (repeat); all by default.",
            flag="namespace",
            short="n",
            value=Value(
                "watch.namespaces",
                "Namespaces to serve; empty means the whole cluster. Given, the controller gets Roles there and no "
                "ClusterRole.",
                schema={"items": {"type": "string", "pattern": f"^{NAME}$", "maxLength": 63}, "uniqueItems": True},
                shared=True,
            ),
        ),
    ] = ()
    selector: Annotated[
        str,
        Setting(
            "Serve only objects with these labels (sharding).",
            value=Value(
                "watch.selector",
                "Label selector of the GPUAutoscalers to serve, as `team=search,tier!=dev`; empty means all. Several "
                "releases with disjoint selectors share a large fleet.",
                shared=True,
            ),
        ),
    ] = ""


@dataclass(frozen=True)
class ActingSettings:
    """Whether this process writes to the cluster, and which Lease it takes before."""

    dry_run: Annotated[
        bool,
        Setting(
            "Decide and log which count would be set; write nothing to the cluster.",
            value=Value(
                "controller.dryRun",
                "Decide and report, write nothing to the cluster. The write verbs are then left out of RBAC as well.",
                shared=True,
            ),
        ),
    ] = False
    leader_elect: Annotated[
        bool | None,
        Setting(
            "Take a Lease before acting. Needed with more than one replica.",
            default_help="on, and off in a dry run",
            value=Value("controller.leaderElection.enabled", default=True, shared=True),
        ),
    ] = None
    lease_namespace: Annotated[str, Setting("Namespace of the Lease; the pod's own by default.")] = ""
    lease_name: Annotated[
        str,
        Setting(
            "Name of the Lease; one per shard.",
            value=Value(
                "controller.leaderElection.leaseName",
                "Name of the Lease; empty means `<fullname>-controller`, so that releases with different selectors do "
                "not meet.",
                default="",
                schema={"pattern": "^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
                template="harmony.leaseName",
                shared=True,
            ),
        ),
    ] = "harmony-controller"

    @property
    def elects(self) -> bool:
        """Whether the Lease is taken; unless somebody says so, not in a dry run."""
        return not self.dry_run if self.leader_elect is None else self.leader_elect


@dataclass(frozen=True)
class LoopSettings:
    """How often it decides, and how much it may order.

    Attributes:
        interval_s: jittered by a tenth so that shards do not ask Prometheus in step.
        refresh_s: see `forecasting.refreshing`; rows until the end of each period are learned.
        gpu_budget: GPUs that all of its services share; 0 for no budget.
        read_deadline_s: what has not been read by then counts as stale in this tick and does not delay it.
    """

    interval_s: Annotated[
        float,
        Setting(
            "Time between two turns of the loop, such as 30s.",
            flag="interval",
            duration=True,
            value=Value("controller.interval", schema=DURATION),
        ),
    ] = 30.0
    read_deadline_s: float = 10.0
    refresh_s: Annotated[
        float,
        Setting(
            "Services learn on line in periods of this length, such as 1h: what the forecaster names, or its "
            "calibration; 0s for never.",
            flag="refresh",
            duration=True,
            value=Value("controller.refresh", schema=DURATION),
        ),
    ] = 0.0
    gpu_budget: Annotated[
        int,
        Setting(
            "GPUs that all services of this controller share; 0 for no budget. With an API and a journal it is changed "
            "at run time.",
            value=Value(
                "controller.gpuBudget",
                "GPUs that all services of this release share; 0 for no budget. Where they do not suffice nobody loses "
                "a replica, and whoever lowers its risk most per GPU grows first. With the API and its journal it is "
                "changed at run time.",
                schema={"minimum": 0},
            ),
        ),
    ] = 0


@dataclass(frozen=True)
class ForecasterSettings:
    """What it forecasts with; ``samples`` are the sample paths of a forecast, ``seed`` is theirs."""

    forecaster: Annotated[
        str,
        Setting(
            "base, a model folder, or what every service learns for itself with --refresh: ensemble or ridge.",
            value=Value(
                "controller.forecaster",
                "Forecaster: `base`, a model folder mounted through volumes, or what every service learns for itself "
                "where `controller.refresh` is set: `ensemble` or `ridge`.",
                schema={"pattern": r"^\S+$"},
                shared=True,
            ),
        ),
    ] = "base"
    samples: int = 200
    seed: int = 0


@dataclass(frozen=True)
class AddressSettings:
    """Where it listens, as ``:8080``; empty for nowhere."""

    metrics_address: Annotated[
        str,
        Setting(
            "Where /metrics listens; empty for nowhere.",
            value=Value("controller.ports.metrics", "Port of `/metrics`.", 8080, PORT, form=":%v"),
        ),
    ] = ":8080"
    health_address: Annotated[
        str,
        Setting(
            "Where probes are answered (/healthz, /readyz), by a process of its own; empty for nowhere.",
            value=Value("controller.ports.health", "Port of `/healthz` and `/readyz`.", 8081, PORT, form=":%v"),
        ),
    ] = ":8081"


@dataclass(frozen=True)
class KedaSettings:
    """KEDA's external scaler; with a CA clients are asked for certificates too."""

    keda_address: Annotated[
        str,
        Setting(
            "Where the KEDA external scaler listens, such as :9090.",
            value=Value(
                "keda.port",
                "Port of the scaler, in the pod and in its Service.",
                9090,
                PORT,
                form=":%v",
                when="keda.enabled",
            ),
        ),
    ] = ""
    keda_cert_file: Annotated[
        str,
        Setting(
            "Certificate of the KEDA scaler.",
            flag="keda-tls-cert-file",
            value=Value("", when="keda.enabled", template="harmony.kedaCertFile"),
        ),
    ] = ""
    keda_key_file: Annotated[
        str,
        Setting(
            "Its key.",
            flag="keda-tls-key-file",
            value=Value("", when="keda.enabled", template="harmony.kedaKeyFile"),
        ),
    ] = ""
    keda_ca_file: Annotated[
        str,
        Setting(
            "Ask clients for certificates signed by this CA.",
            flag="keda-tls-ca-file",
            value=Value("", when="keda.enabled", template="harmony.kedaCaFile"),
        ),
    ] = ""


@dataclass(frozen=True)
class LogSettings:
    """How it logs."""

    log_format: Annotated[
        str, Setting("json or text.", value=Value("controller.logFormat", schema={"enum": list(LOG_FORMATS)}))
    ] = "json"
    log_level: Annotated[
        str,
        Setting(
            "debug, info, warning or error.", value=Value("controller.logLevel", schema={"enum": list(LOG_LEVELS)})
        ),
    ] = "info"


@dataclass(frozen=True)
class ControllerSettings(
    LogSettings,
    KedaSettings,
    AddressSettings,
    ForecasterSettings,
    LoopSettings,
    ActingSettings,
    WatchSettings,
    KubernetesSettings,
):
    """Settings of one controller process: all of the above at once.

    Attributes:
        prometheus: where indicators come from.
        journal: JSON-lines file that gets every turn; empty for none.
    """

    prometheus: PrometheusSettings = PrometheusSettings()
    journal: str = ""

    @classmethod
    def of(cls, prometheus: PrometheusSettings, *parts: object) -> Self:
        """Made of its concerns, for a command that asks for some of them."""
        given = {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}  # type: ignore[arg-type]
        return cls(prometheus=prometheus, **given)

    def __post_init__(self) -> None:
        if not 0.2 <= self.interval_s <= 3600.0:
            raise UsageError(f"--interval {self.interval_s:g} s: expected between 1s and 1h, say 30s")
        if self.log_format not in LOG_FORMATS:
            raise UsageError(f"--log-format {self.log_format!r}: expected {' or '.join(LOG_FORMATS)}")
        if self.log_level not in LOG_LEVELS:
            raise UsageError(f"--log-level {self.log_level!r}: expected one of {', '.join(LOG_LEVELS)}")
        if self.samples < 20:
            raise UsageError(f"--samples {self.samples}: expected 20 or more; a risk of 1 % needs hundreds")
        if bool(self.keda_cert_file) != bool(self.keda_key_file):
            raise UsageError("--keda-tls-cert-file and --keda-tls-key-file go together; give both or neither")
