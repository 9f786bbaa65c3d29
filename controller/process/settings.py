"""`ControllerSettings`: what the person who runs the controller chooses; each has a flag and an environment name."""

from __future__ import annotations

from dataclasses import dataclass

from forecasting.errors import UsageError

__all__ = ["ControllerSettings", "PrometheusSettings"]

LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """How to reach the Prometheus that objects use unless they name their own.

    Attributes:
        url: base address, path prefix included; empty when every object names its own.
        token_file: bearer token, read again for each request because mounted tokens rotate; empty for none.
        ca_file: certificates to trust besides the system's; empty for none.
        params: query parameters added to every request (multi-tenant Thanos and Mimir ask for them).
        timeout_s: how long one query may take.
    """

    url: str = ""
    token_file: str = ""
    ca_file: str = ""
    params: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Settings of one controller process.

    Attributes:
        prometheus: where indicators come from.
        namespaces: namespaces watched; empty for the whole cluster.
        selector: label selector of the objects that this controller serves (sharding); empty for all.
        interval_s: seconds between ticks; jittered by a tenth so that shards do not ask Prometheus in step.
        leader_elect: take a Lease before acting, so that several replicas may run.
        lease_namespace, lease_name: that Lease; an empty namespace means the pod's own.
        kubeconfig, context: how to reach the API server; empty means in-cluster, else the usual kubeconfig.
        dry_run: decide and report, write nothing at all to the cluster.
        forecaster: "base", or a model folder.
        samples: sample paths per forecast.
        metrics_address, health_address, keda_address: where to listen, as ``:8080``; empty switches one off.
        keda_cert_file, keda_key_file, keda_ca_file: TLS for the KEDA scaler; a CA asks clients for certificates too.
        log_format, log_level: how to log.
        journal: JSON-lines file that gets every turn; empty for none.
        read_deadline_s: what has not been read by then counts as stale in this tick and does not delay it.
        seed: of the sample paths.
    """

    prometheus: PrometheusSettings = PrometheusSettings()
    namespaces: tuple[str, ...] = ()
    selector: str = ""
    interval_s: float = 30.0
    leader_elect: bool = True
    lease_namespace: str = ""
    lease_name: str = "harmony-controller"
    kubeconfig: str = ""
    context: str = ""
    dry_run: bool = False
    forecaster: str = "base"
    samples: int = 200
    metrics_address: str = ":8080"
    health_address: str = ":8081"
    keda_address: str = ""
    keda_cert_file: str = ""
    keda_key_file: str = ""
    keda_ca_file: str = ""
    log_format: str = "json"
    log_level: str = "info"
    journal: str = ""
    read_deadline_s: float = 10.0
    seed: int = 0

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
