"""`harmony backtest`: what the policies would have done on the history that Prometheus keeps of a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harmony.app.settings import RivalSettings
from harmony.cli.extras import needing
from harmony.cli.options import pair, with_settings

__all__ = ["backtest"]


@with_settings
@needing("controller")
def backtest(
    prometheus: Annotated[
        str | None, typer.Option(envvar="HARMONY_PROMETHEUS_URL", help="Address of Prometheus, with any path prefix.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="PromQL of what replicas are counted for: one series.")] = None,
    indicator: Annotated[
        list[str] | None, typer.Option(help="Further indicator for the forecast, NAME=PROMQL (repeat).")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Take queries and settings from this GPUAutoscaler (YAML).")
    ] = None,
    days: Annotated[float, typer.Option(help="How far back to read, in days.")] = 14.0,
    step: Annotated[str | None, typer.Option(help="Seconds per step, such as 30s; 1m by default.")] = None,
    per_replica: Annotated[float | None, typer.Option(help="Demand that one ready replica carries.")] = None,
    mean_replicas: Annotated[
        float, typer.Option(help="Without --per-replica: replicas that the mean demand shall need.")
    ] = 20.0,
    lead_time: Annotated[
        str | None,
        typer.Option(help="Time a replica takes to become ready: 5m (the default), or median and spread: 5m*1.4."),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Tolerated share of violated time; 0.01 by default.")] = None,
    replicas: Annotated[
        str | None, typer.Option(help="PromQL of the replicas that really ran: a row 'actual' to compare with.")
    ] = None,
    min_replicas: Annotated[int | None, typer.Option(help="Never fewer replicas than this; 1 by default.")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Never more replicas than this; no limit by default.")
    ] = None,
    gpus_per_replica: Annotated[int | None, typer.Option(help="GPUs that one replica occupies; 1 by default.")] = None,
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour; 1 by default.")] = None,
    token_file: Annotated[
        str, typer.Option("--prometheus-token-file", envvar="HARMONY_PROMETHEUS_TOKEN_FILE", help="Bearer token.")
    ] = "",
    ca_file: Annotated[
        str, typer.Option("--prometheus-ca-file", envvar="HARMONY_PROMETHEUS_CA_FILE", help="CA bundle (PEM).")
    ] = "",
    query_param: Annotated[
        list[str] | None,
        typer.Option("--prometheus-query-param", help="KEY=VALUE added to every query (repeat), such as a tenant."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--prometheus-header", help="NAME=VALUE sent with every query (repeat), such as X-Scope-OrgID=team-a."
        ),
    ] = None,
    cert_file: Annotated[
        str,
        typer.Option("--prometheus-cert-file", envvar="HARMONY_PROMETHEUS_CERT_FILE", help="Client certificate (PEM)."),
    ] = "",
    key_file: Annotated[
        str, typer.Option("--prometheus-key-file", envvar="HARMONY_PROMETHEUS_KEY_FILE", help="Its key (PEM).")
    ] = "",
    proxy: Annotated[
        str, typer.Option("--prometheus-proxy", envvar="HARMONY_PROMETHEUS_PROXY", help="HTTP proxy to go through.")
    ] = "",
    timeout: Annotated[str, typer.Option(help="How long one request to Prometheus may take.")] = "60s",
    rivals: RivalSettings = RivalSettings(),
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a service's own history, read from Prometheus, under each policy: what would it have cost and violated?

    Examples:
    `harmony backtest --prometheus http://localhost:9090 --demand 'sum(rate(http_requests_total{service="chat"}[1m]))'
    --per-replica 25 --replicas 'sum(kube_deployment_status_replicas_ready{deployment="chat"})'`

    `harmony backtest --prometheus http://localhost:9090 -f gpuautoscaler.yaml --days 7 --out out/chat`
    """
    from controller.prometheus.client import Prometheus
    from forecasting.errors import UsageError
    from harmony.app import backtesting, replaying
    from harmony.cli.showing import files, print_table, progress
    from harmony.durations import parse_duration

    spec = backtesting.read_manifest(file) if file is not None else None
    history = backtesting.history_of(spec, demand, indicator or [], None if step is None else parse_duration(step))
    settings = backtesting.replay_settings_of(
        spec, rivals, per_replica=per_replica, mean_replicas=mean_replicas, lead_time=lead_time, epsilon=epsilon,
        min_replicas=min_replicas, max_replicas=max_replicas, gpus_per_replica=gpus_per_replica,
        price_per_gpu_hour=price,
    )  # fmt: skip
    url = prometheus or (spec.prometheus_url if spec is not None else "")
    if not url:
        raise UsageError("no Prometheus given; add --prometheus URL, such as http://localhost:9090")
    params = [pair("prometheus-query-param", text) for text in query_param or []]
    points = min(11_000, max(1, round(86_400 / history.step_s)))
    client = Prometheus(
        url, token_file, ca_file, params, parse_duration(timeout), points_per_request=points,
        headers=[pair("prometheus-header", text) for text in header or []],
        cert_file=cert_file, key_file=key_file, proxy=proxy,
    )  # fmt: skip
    with progress("backtest") as report:
        found = backtesting.backtest(client, history, settings, rivals, report, days=days, replicas=replicas)
    if as_json:
        told = found.result.to_json() | {"history": found.told}
        print(json.dumps(told, sort_keys=True, indent=2, allow_nan=False))
    else:
        print_table(found.result)
        print(f"\n{found.told['read']}\n{found.told['verdict']}")
        if rivals.out is not None:
            print(files(rivals.out))
    return 1 if replaying.failed(found.result, rivals) else 0
