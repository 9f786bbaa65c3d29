"""Flags of the commands that meet a cluster, each declared once, and the controller's settings made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from controller.process.settings import ControllerSettings

__all__ = ["connection_settings", "whole_settings"]

Kubeconfig = Annotated[
    str, typer.Option(envvar="HARMONY_KUBECONFIG", help="Kubeconfig file; in-cluster or the usual one by default.")
]
Context = Annotated[str, typer.Option(envvar="HARMONY_CONTEXT", help="Context of the kubeconfig.")]
PrometheusUrl = Annotated[
    str, typer.Option(envvar="HARMONY_PROMETHEUS_URL", help="Prometheus of objects that name none of their own.")
]
TokenFile = Annotated[
    str, typer.Option(envvar="HARMONY_PROMETHEUS_TOKEN_FILE", help="Bearer token, read again for each request.")
]
CaFile = Annotated[
    str, typer.Option(envvar="HARMONY_PROMETHEUS_CA_FILE", help="Certificates to trust besides the system's.")
]
QueryParam = Annotated[
    list[str] | None,
    typer.Option(
        "--prometheus-query-param",
        envvar="HARMONY_PROMETHEUS_QUERY_PARAM",
        help="KEY=VALUE added to every query (repeat), for multi-tenant Thanos or Mimir.",
    ),
]
Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", "-n", envvar="HARMONY_NAMESPACE", help="Namespace to watch (repeat); all by default."),
]
Selector = Annotated[
    str, typer.Option(envvar="HARMONY_SELECTOR", help="Serve only objects with these labels (sharding).")
]
LeaderElect = Annotated[
    bool | None,
    typer.Option(
        "--leader-elect/--no-leader-elect",
        envvar="HARMONY_LEADER_ELECT",
        show_default="on, and off in a dry run",
        help="Take a Lease before acting; needed with replicas.",
    ),
]
LeaseNamespace = Annotated[
    str, typer.Option(envvar="HARMONY_LEASE_NAMESPACE", help="Namespace of the Lease; the pod's own by default.")
]
LeaseName = Annotated[str, typer.Option(envvar="HARMONY_LEASE_NAME", help="Name of the Lease; one per shard.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        envvar="HARMONY_DRY_RUN",
        help="Decide and log what would be ordered; write nothing to the cluster.",
    ),
]
Interval = Annotated[str, typer.Option(envvar="HARMONY_INTERVAL", help="Time between ticks, such as 30s.")]
ForecasterName = Annotated[
    str, typer.Option("--forecaster", envvar="HARMONY_FORECASTER", help="base, or a model folder.")
]
MetricsAddress = Annotated[
    str, typer.Option(envvar="HARMONY_METRICS_ADDRESS", help="Where /metrics listens; empty for nowhere.")
]
HealthAddress = Annotated[
    str, typer.Option(envvar="HARMONY_HEALTH_ADDRESS", help="Where the loop's /healthz and /readyz listen.")
]
KedaAddress = Annotated[
    str, typer.Option(envvar="HARMONY_KEDA_ADDRESS", help="Where the KEDA external scaler listens, such as :9090.")
]
KedaCertFile = Annotated[str, typer.Option(envvar="HARMONY_KEDA_TLS_CERT_FILE", help="Certificate of the KEDA scaler.")]
KedaKeyFile = Annotated[str, typer.Option(envvar="HARMONY_KEDA_TLS_KEY_FILE", help="Its key.")]
KedaCaFile = Annotated[
    str, typer.Option(envvar="HARMONY_KEDA_TLS_CA_FILE", help="Ask clients for certificates signed by this CA.")
]
TokenReview = Annotated[
    bool,
    typer.Option(
        "--token-review", envvar="HARMONY_TOKEN_REVIEW", help="Accept Kubernetes tokens (asks the API server)."
    ),
]
LogFormat = Annotated[str, typer.Option(envvar="HARMONY_LOG_FORMAT", help="json or text.")]
LogLevel = Annotated[str, typer.Option(envvar="HARMONY_LOG_LEVEL", help="debug, info, warning or error.")]


def connection_settings(
    url: str,
    token_file: str,
    ca_file: str,
    params: list[str] | None,
    namespaces: list[str] | None,
    kubeconfig: str,
    context: str,
    forecaster: str,
) -> ControllerSettings:
    """Where Prometheus and the API server are, and what is watched: what every command about a cluster asks."""
    from controller.process.settings import ControllerSettings, PrometheusSettings
    from forecasting.errors import UsageError

    pairs = []
    for text in params or ():
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise UsageError(f"--prometheus-query-param {text!r}: expected KEY=VALUE")
        pairs.append((key, value))
    return ControllerSettings(
        prometheus=PrometheusSettings(url, token_file, ca_file, tuple(pairs)),
        namespaces=tuple(dict.fromkeys(namespaces or ())),
        kubeconfig=kubeconfig,
        context=context,
        forecaster=forecaster,
    )


def whole_settings(
    connection: ControllerSettings,
    *,
    selector: str,
    interval: str,
    leader_elect: bool | None,
    lease_namespace: str,
    lease_name: str,
    dry_run: bool,
    metrics_address: str,
    health_address: str,
    keda_address: str,
    keda_tls_files: tuple[str, str, str],
    log_format: str,
    log_level: str,
) -> ControllerSettings:
    """Those of a process that runs the loop; ``keda_tls_files`` are certificate, key and CA ("" for none)."""
    import dataclasses

    from harmony.cli.durations import parse_duration

    certificate, key, ca = keda_tls_files
    return dataclasses.replace(
        connection,
        selector=selector,
        interval_s=parse_duration(interval),
        leader_elect=not dry_run if leader_elect is None else leader_elect,
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        dry_run=dry_run,
        metrics_address=metrics_address,
        health_address=health_address,
        keda_address=keda_address,
        keda_cert_file=certificate,
        keda_key_file=key,
        keda_ca_file=ca,
        log_format=log_format,
        log_level=log_level,
    )
