"""The process of `harmony serve`: API and dashboard over a source, with its journal and its door."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting.errors import UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from controller.process.probes import Probes
    from controller.process.settings import ControllerSettings
    from harmony.api.ports import TokenReviewer
    from harmony.api.roles import Role
    from harmony.api.state import ApiSettings, ApiState
    from harmony.app.front import Front
    from harmony.app.settings import DemoSettings, DoorSettings, JournalSettings, ListenSettings
    from harmony.app.sources import Source
    from harmony.journal import JournalStore

__all__ = ["Server", "serve"]

log = logging.getLogger(__name__)
BESIDE = 20  # a larger demo gets a process of its own: sharing an interpreter, loop and server slow each other down
VOICE = "api"  # among those that probes hear
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is told besides its source.

    Attributes:
        where: where it listens.
        door: who may come in; ``groups`` is the role by Kubernetes group, ``review`` asks whose a Kubernetes token is
            (None where tokens are not accepted).
        reports: folder with replay reports for the dashboard.
        forecaster: "base", or a model folder.
        machine: whether the log is read by machines, so that nobody is greeted.
        probes: what is told how the server stands; None where nobody probes.
    """

    where: str
    door: DoorSettings
    groups: Mapping[str, Role]
    review: TokenReviewer | None
    reports: Path | None
    forecaster: str
    machine: bool
    probes: Probes | None = None


def serve(
    demo: DemoSettings | None,
    loop: ControllerSettings,
    *,
    cluster: bool,
    journal: JournalSettings,
    listening: ListenSettings,
    door: DoorSettings,
    reports: Path | None,
) -> int:
    """Serve until stopped: ``demo`` if given, else the ``cluster``'s loop, else what others write into the journal.

    Raises `UsageError` where nothing would be served, or nobody could come in.
    """
    from harmony.app import following, keeping
    from harmony.app.answering import token_reviewer
    from harmony.app.demo import Demo, DemoApart

    if demo is not None and cluster:
        raise UsageError("--demo and --cluster: choose one")
    if demo is None and not cluster and not journal.journal:
        raise UsageError("nothing to serve: add --demo, --cluster, or --journal of a journal that others write")
    if door.wait_for_key and not journal.journal:
        raise UsageError("--wait-for-key: keys are kept in a journal; add --journal")
    with (
        _probes(loop.health_address, cluster=cluster) as probes,
        keeping.opened(journal.journal, temporary=demo is not None) as (store, url),
    ):
        source: Source
        if demo is not None:
            few = demo.services <= BESIDE
            source = Demo(demo, loop.refresh_s) if few else DemoApart(demo, url, loop.refresh_s)
        elif cluster:
            source = following.Cluster(loop, store, probes)
        else:
            assert store is not None  # there is a --journal
            source = following.Follower(store)
        server = Server(
            where=listening.where,
            door=door,
            groups=_groups(door),
            review=token_reviewer(loop.kubeconfig, loop.context) if door.token_review else None,
            reports=reports,
            forecaster=loop.forecaster,
            machine=loop.log_format == "json",
            probes=probes,
        )
        with keeping.retaining(store, source, journal.retain_days, journal.retain_inputs_days):
            return run(server, store, source)


def run(server: Server, store: JournalStore | None, source: Source) -> int:
    """Listen, then begin, then serve to the end."""
    from controller.process.malloc import settle
    from harmony.api.jobs import Jobs
    from harmony.api.server import ApiServer, listen
    from harmony.api.shelf import Shelf
    from harmony.api.state import ApiState
    from harmony.app import answering, keeping
    from harmony.app.front import Front

    listening, host, port = listen(server.where)
    with listening:
        settings = _settings(host, server, store)
        histories = answering.PostedHistories(server.forecaster)
        state = ApiState(
            hub=source.hub,
            journal=store,
            explain=None if store is None else answering.explainer(store),
            forecast=histories.forecast,
            explain_forecast=histories.explain,
            jobs=Jobs("harmony.app.backtest_job:work", shelf=None if store is None else Shelf(store)),
            models=answering.model_cards(server.forecaster),
            metrics=source.metrics,
            token_review=server.review,
            settings=settings,
            health=source.health,
        )
        app, front = _application(state, source.speed, server.reports), Front(listening)
        api = ApiServer(app, functools.partial(_speak, front, app, settings.hosts, server.probes, source), front)
        with keeping.recording(store, source) as state.notice, source.running(api):
            if server.machine:
                log.info("serving", extra={"address": f"{host}:{port}", "open": settings.is_open})
            else:
                _greet(host, port, settings, source.what)
            settle()  # or the search for cycles would stop all answers for a moment, now and then
            api.run(sockets=[listening])
    return 0


def _probes(address: str, *, cluster: bool) -> contextlib.AbstractContextManager[Probes | None]:
    """Answers to probes from the first moment on: not alive until server and, with a cluster, its loop have begun."""
    if not address:
        return contextlib.nullcontext()
    from controller.process.probes import CONTROLLER, Probes

    return Probes(address, [CONTROLLER, VOICE] if cluster else [VOICE])


async def _speak(front: Front, app: FastAPI, hosts: frozenset[str], probes: Probes | None, source: Source) -> None:
    """What the server's event loop does to tell that it moves, and whether the source does, to who answers for it."""
    from controller.process.probes import Check

    checks = [Check("source", lambda: source.stuck() or None)]
    async with asyncio.TaskGroup() as told:
        told.create_task(front.speak(app, hosts))
        if probes is not None:
            told.create_task(probes.speak(VOICE, checks, checks))


def _application(state: ApiState, speed: float, reports: Path | None) -> FastAPI:
    """The API with the dashboard's pages."""
    from harmony.api.app import create_app
    from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings

    state.settings = dashboard_settings(state.settings)
    app = create_app(state)
    add_dashboard(app, Dashboard(state, speed=speed, reports=reports))
    return app


def _settings(host: str, server: Server, store: JournalStore | None) -> ApiSettings:
    """Open on loopback while there are no keys, or where the user insists; else there must be a way in."""
    from harmony.api.keys import is_valid
    from harmony.api.server import is_loopback
    from harmony.api.state import ApiSettings

    now_s = time.time()  # noqa: TID251 - the process reads the clock
    kept = [] if store is None else store.keys()
    has_keys = any(is_valid(key, now_s) for key in kept)
    local = is_loopback(host)
    door = server.door
    is_open = door.insecure or (local and not has_keys and server.review is None and not door.wait_for_key)
    if not is_open and not has_keys and not server.groups and not door.wait_for_key:
        raise UsageError(
            f"{host or 'every address'} can be reached by others, and nobody has a key: make one with `harmony keys "
            "create me --role admin --journal URL` and serve with that --journal; or --token-review with groups; or "
            "--wait-for-key to make one later; or --insecure to let everybody in"
        )
    return ApiSettings(
        is_open=is_open,
        hosts=LOOPBACK_HOSTS if is_open and local else frozenset(),
        groups=server.groups,
        cors_origins=door.cors_origins,
        rate=door.rate,
        burst=4 * door.rate,
    )


def _groups(door: DoorSettings) -> dict[str, Role]:
    """Role by group; the highest counts where a group is named twice."""
    from harmony.api.roles import Role

    pairs = ((door.read_groups, Role.READ), (door.operate_groups, Role.OPERATE), (door.admin_groups, Role.ADMIN))
    return {group: role for names, role in pairs for group in names}


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
