"""`harmony serve`: API and dashboard over a loop (demo, cluster) or over a journal that others write."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmony.cli.cluster_flags import (
    CaFile,
    Context,
    DryRun,
    ForecasterName,
    HealthAddress,
    Interval,
    KedaAddress,
    KedaCaFile,
    KedaCertFile,
    KedaKeyFile,
    Kubeconfig,
    LeaderElect,
    LeaseName,
    LeaseNamespace,
    LogFormat,
    LogLevel,
    MetricsAddress,
    Namespaces,
    PrometheusUrl,
    QueryParam,
    Selector,
    TokenFile,
    TokenReview,
    connection_settings,
    whole_settings,
)
from harmony.cli.extras import needing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI

    from harmony.api.ports import TokenReviewer
    from harmony.api.roles import Role
    from harmony.api.state import ApiSettings, ApiState
    from harmony.app.sources import Source
    from harmony.journal import JournalStore

__all__ = ["serve"]

log = logging.getLogger(__name__)
BESIDE = 20  # a larger demo gets a process of its own: sharing an interpreter, loop and server slow each other down
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in.

    Attributes:
        insecure: ask nobody for a key.
        wait_for_key: begin before there is a key, and let nobody in until then.
        groups: role by Kubernetes group.
        review: asks whose a Kubernetes token is; None where tokens are not accepted.
        cors: origins whose pages may read answers.
        rate: requests per second and caller.
    """

    insecure: bool
    wait_for_key: bool
    groups: Mapping[str, Role]
    review: TokenReviewer | None
    cors: Sequence[str]
    rate: float


def serve(
    demo: Annotated[bool, typer.Option("--demo", help="Serve a simulated cluster under the real loop.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Run the Kubernetes controller in this process.")] = False,
    journal: Annotated[
        str, typer.Option(envvar="HARMONY_JOURNAL_URL", help="sqlite:///FILE or postgresql://...: decisions and keys.")
    ] = "",
    address: Annotated[str, typer.Option(envvar="HARMONY_ADDRESS", help="Where to listen.")] = "127.0.0.1:8000",
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Another port of that address; 0 for any.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Ask nobody for a key, wherever they come from.")
    ] = False,
    wait_for_key: Annotated[
        bool, typer.Option("--wait-for-key", help="Start before there is a key, and let nobody in until one is made.")
    ] = False,
    token_review: TokenReview = False,
    read_group: Annotated[list[str] | None, typer.Option(help="Kubernetes group that may read (repeat).")] = None,
    operate_group: Annotated[list[str] | None, typer.Option(help="Group that may also start work.")] = None,
    admin_group: Annotated[list[str] | None, typer.Option(help="Group that may also manage keys.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may read answers (repeat); none by default.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests per second and caller.")] = 50.0,
    retain_days: Annotated[
        float | None,
        typer.Option(min=0, help="Remove decisions older than so many days, every hour; kept for ever by default."),
    ] = None,
    retain_inputs_days: Annotated[
        float | None, typer.Option(min=0, help="Remove what they can be recomputed from earlier than that.")
    ] = None,
    services: Annotated[int, typer.Option(min=1, max=2000, help="Demo: how many services.")] = 5,
    speed: Annotated[float, typer.Option(min=0.1, max=600, help="Demo: seconds that pass in one second.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Demo: seed of everything random.")] = 0,
    reports: Annotated[Path | None, typer.Option(help="Folder with replay reports for the dashboard.")] = None,
    forecaster: ForecasterName = "base",
    prometheus_url: PrometheusUrl = "",
    prometheus_token_file: TokenFile = "",
    prometheus_ca_file: CaFile = "",
    prometheus_query_param: QueryParam = None,
    namespace: Namespaces = None,
    selector: Selector = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    interval: Interval = "30s",
    leader_elect: LeaderElect = None,
    lease_namespace: LeaseNamespace = "",
    lease_name: LeaseName = "harmony-controller",
    dry_run: DryRun = False,
    metrics_address: MetricsAddress = "",
    health_address: HealthAddress = "",
    keda_address: KedaAddress = "",
    keda_tls_cert_file: KedaCertFile = "",
    keda_tls_key_file: KedaKeyFile = "",
    keda_tls_ca_file: KedaCaFile = "",
    log_format: LogFormat = "text",
    log_level: LogLevel = "warning",
) -> int:
    """Serve API and dashboard until stopped.

    Examples:
    `harmony serve --demo`

    `harmony serve --cluster --prometheus-url http://prometheus:9090 --journal sqlite:///harmony.db --address :8000`

    `harmony serve --journal postgresql://harmony@db/harmony --token-review --read-group developers`
    """
    from controller.process.logs import configure
    from forecasting.errors import UsageError
    from harmony.app import following, sources

    if demo and cluster:
        raise UsageError("--demo and --cluster: choose one")
    if not (demo or cluster or journal):
        raise UsageError("nothing to serve: add --demo, --cluster, or --journal of a journal that others write")
    configure(log_format, log_level)
    groups = _groups(read_group, operate_group, admin_group)
    if groups and not token_review:
        raise UsageError("groups are looked up by --token-review: add it")
    if wait_for_key and not journal:
        raise UsageError("--wait-for-key: keys are kept in a journal; add --journal")
    if retain_inputs_days is not None and retain_days is None:
        raise UsageError("--retain-inputs-days goes with --retain-days: add it")
    extras = ("api", "controller") if cluster or token_review else ("api",)
    with needing(*extras), sources.opened(journal, temporary=demo) as (store, url):
        source: Source
        if demo:
            few = services <= BESIDE
            source = sources.Demo(services, speed, seed) if few else sources.DemoApart(services, speed, seed, url)
        elif cluster:
            connection = connection_settings(
                prometheus_url,
                prometheus_token_file,
                prometheus_ca_file,
                prometheus_query_param,
                namespace,
                kubeconfig,
                context,
                forecaster,
            )
            settings = whole_settings(
                connection,
                selector=selector,
                interval=interval,
                leader_elect=leader_elect,
                lease_namespace=lease_namespace,
                lease_name=lease_name,
                dry_run=dry_run,
                metrics_address=metrics_address,
                health_address=health_address,
                keda_address=keda_address,
                keda_tls_files=(keda_tls_cert_file, keda_tls_key_file, keda_tls_ca_file),
                log_format=log_format,
                log_level=log_level,
            )
            source = following.Cluster(settings, store)
        else:
            assert store is not None  # there is a --journal
            source = following.Follower(store)
        review = sources.token_reviewer(kubeconfig, context) if token_review else None
        door = Door(insecure, wait_for_key, groups, review, cors_origin or (), rate)
        with sources.retaining(store, source, retain_days, retain_inputs_days):
            return _run(_at(address, port), door, store, source, reports, forecaster, log_format)


def _run(
    where: str,
    door: Door,
    store: JournalStore | None,
    source: Source,
    reports: Path | None,
    forecaster: str,
    log_format: str,
) -> int:
    """Listen, then begin, then serve to the end."""
    from harmony.api.jobs import Jobs
    from harmony.api.server import ApiServer, listen
    from harmony.api.shelf import Shelf
    from harmony.api.state import ApiState
    from harmony.app import sources

    listening, host, port = listen(where)
    with listening:
        settings = _settings(host, door, store)
        state = ApiState(
            hub=source.hub,
            journal=store,
            explain=None if store is None else sources.explainer(store),
            forecast=sources.forecaster(forecaster),
            jobs=Jobs("harmony.app.backtest_job:work", shelf=None if store is None else Shelf(store)),
            models=sources.model_cards(forecaster),
            metrics=source.metrics,
            token_review=door.review,
            settings=settings,
            health=source.health,
        )
        server = ApiServer(_application(state, source.speed, reports))
        with sources.recording(store, source) as state.notice, source.running(server):
            if log_format == "json":
                log.info("serving", extra={"address": f"{host}:{port}", "open": settings.is_open})
            else:
                _greet(host, port, settings, source.what)
            server.run(sockets=[listening])
    return 0


def _application(state: ApiState, speed: float, reports: Path | None) -> FastAPI:
    """The API with the dashboard's pages."""
    from harmony.api.app import create_app
    from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings

    state.settings = dashboard_settings(state.settings)
    app = create_app(state)
    add_dashboard(app, Dashboard(state, speed=speed, reports=reports))
    return app


def _settings(host: str, door: Door, store: JournalStore | None) -> ApiSettings:
    """Open on loopback while there are no keys, or where the user insists; else there must be a way in."""
    from forecasting.errors import UsageError
    from harmony.api.keys import is_valid
    from harmony.api.server import is_loopback
    from harmony.api.state import ApiSettings

    now_s = time.time()  # noqa: TID251 - the command line reads the clock
    kept = [] if store is None else store.keys()
    has_keys = any(is_valid(key, now_s) for key in kept)
    local = is_loopback(host)
    is_open = door.insecure or (local and not has_keys and door.review is None and not door.wait_for_key)
    if not is_open and not has_keys and not door.groups and not door.wait_for_key:
        raise UsageError(
            f"{host or 'every address'} can be reached by others, and nobody has a key: make one with `harmony keys "
            "create me --role admin --journal URL` and serve with that --journal; or --token-review with groups; or "
            "--wait-for-key to make one later; or --insecure to let everybody in"
        )
    return ApiSettings(
        is_open=is_open,
        hosts=LOOPBACK_HOSTS if is_open and local else frozenset(),
        groups=door.groups,
        cors_origins=tuple(door.cors),
        rate=door.rate,
        burst=4 * door.rate,
    )


def _groups(read: list[str] | None, operate: list[str] | None, admin: list[str] | None) -> dict[str, Role]:
    """Role by group; the highest counts where a group is named twice."""
    from harmony.api.roles import Role

    pairs = ((read, Role.READ), (operate, Role.OPERATE), (admin, Role.ADMIN))
    return {group: role for names, role in pairs for group in names or ()}


def _at(address: str, port: int | None) -> str:
    """The address with another port in it."""
    return address if port is None else f"{address.rpartition(':')[0]}:{port}"


def _greet(host: str, port: int, settings: ApiSettings, what: str) -> None:
    """Say where it is, and who may come in."""
    shown = "127.0.0.1" if host in ("", "::", "0.0.0.0") else f"[{host}]" if ":" in host else host
    print(f"{what}\n\n  dashboard  http://{shown}:{port}/\n  API        http://{shown}:{port}/api/v1/services\n")
    if settings.is_open:
        print(
            "No key is asked for. To ask for keys, make one: harmony keys create me --role admin --journal "
            "sqlite:///harmony.db\nand serve with --journal sqlite:///harmony.db"
        )
    print("Stop with Ctrl-C.", flush=True)
