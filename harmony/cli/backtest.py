"""`harmony backtest`: what the policies would have done on the history that Prometheus keeps of a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harmony.app.settings import ReplayTerms, RivalSettings, SweepSettings
from harmony.cli.extras import needing
from harmony.cli.options import flags_given, pair, with_settings

__all__ = ["backtest"]


@with_settings
@needing("controller")
def backtest(
    context: typer.Context,
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
    terms: ReplayTerms = ReplayTerms(),
    replicas: Annotated[
        str | None, typer.Option(help="PromQL of the replicas that really ran: a row 'actual' to compare with.")
    ] = None,
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
    swept: SweepSettings = SweepSettings(),
    as_json: Annotated[bool, typer.Option("--json", help="Print replay.json instead of the table.")] = False,
) -> int:
    """Replay a service's own history, read from Prometheus, under each policy: what would it have cost and violated?

    Examples:
    `harmony backtest --prometheus http://localhost:9090 --demand 'sum(rate(http_requests_total{service="chat"}[1m]))'
    --per-replica 25 --replicas 'sum(kube_deployment_status_replicas_ready{deployment="chat"})'`

    `harmony backtest --prometheus http://localhost:9090 -f gpuautoscaler.yaml --days 7 --sweep --out out/chat`
    """
    from controller.prometheus.client import Prometheus
    from forecasting.errors import UsageError
    from harmony.app import backtesting
    from harmony.app.manifest import written
    from harmony.app.sweeping import choices
    from harmony.cli.showing import files, print_sweep, print_table, progress, sweep_files
    from harmony.durations import parse_duration

    swept.goes_with(flags_given(context))
    rivals.fails_on_one_of([p.title for p in choices(rivals.policies)] if swept.sweep else rivals.names)
    spec = backtesting.read_manifest(file) if file is not None else None
    history = backtesting.history_of(spec, demand, indicator or [], None if step is None else parse_duration(step))
    settings = backtesting.replay_settings_of(spec, rivals, terms, per_replica=per_replica)
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
    with progress("backtest") as report, needing("ray"):
        found = backtesting.backtest(
            client, history, settings, rivals, swept, report, days=days, replicas=replicas, spec=spec
        )
    if as_json:
        print(json.dumps(found.to_json(), sort_keys=True, indent=2, allow_nan=False))
    else:
        if found.result is not None:
            print_table(found.result)
        if found.swept is not None:
            print_sweep(found.swept)
        print(f"\n{found.told['read']}\n{found.told['verdict']}")
        if rivals.out is not None:
            print(files(rivals.out) if found.swept is None else sweep_files(rivals.out))
        if found.manifest is not None:
            print(f"\n{found.advice}\n---\n{written(found.manifest)}", end="")
    return 1 if backtesting.failed(found, rivals) else 0
