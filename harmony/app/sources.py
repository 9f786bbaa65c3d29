"""What `harmony serve` shows: the demo here, cluster and journal in `harmony.app.following`; the API's other ports."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from harmony.serving import Hub, Snapshot

if TYPE_CHECKING:
    import uvicorn

    from harmony.api.ports import ExplainPort, ForecastPort, MetricsPort, ModelsPort, TokenReviewer, TokenUser
    from harmony.journal import JournalStore

__all__ = [
    "Demo",
    "DemoApart",
    "Source",
    "Watch",
    "beside",
    "explainer",
    "forecaster",
    "model_cards",
    "opened",
    "recording",
    "retaining",
]

log = logging.getLogger(__name__)
STILL_S = 60.0  # a loop that has shown nothing for so long, and for several intervals, stands still
STOP_S = 30.0
RETAIN_S = 3600.0
PART = 10  # snapshots per message of a loop in another process


class Source(Protocol):
    """Where snapshots come from."""

    hub: Hub
    metrics: MetricsPort | None
    speed: float  # seconds of the snapshots' time that pass in one of life
    what: str  # for the greeting
    turns: Hub | None  # what is new to the journal; None where nothing is
    trouble: str  # of a journal that it keeps itself

    def health(self) -> str:
        """What is wrong; empty for nothing."""
        ...

    def running(self, server: uvicorn.Server) -> contextlib.AbstractContextManager[None]:
        """Begin, and end on leaving; a source that fails ends the server."""
        ...


class Watch:
    """Says when a hub has been silent for too long."""

    def __init__(self, hub: Hub, longest_s: float) -> None:
        self._hub, self._longest_s = hub, longest_s
        self._seen, self._since_s = -1, time.monotonic()
        hub.subscribe(self.moved)

    def moved(self, _: object = None) -> None:
        """Nothing is missing up to now."""
        self._since_s = time.monotonic()

    def problem(self) -> str:
        """A sentence, or nothing."""
        age_s = time.monotonic() - self._since_s
        return "" if age_s <= self._longest_s else f"the loop has shown nothing for {age_s:.0f} s"


class Demo:
    """A simulated cluster on a thread of its own."""

    def __init__(self, services: int, speed: float, seed: int) -> None:
        from harmony.metrics import Metrics
        from simulator.demo import DemoCluster

        metrics = Metrics()
        self.hub, self.speed = Hub(), speed
        self.metrics: MetricsPort | None = metrics
        self.turns: Hub | None = self.hub
        self.trouble = ""
        self._cluster = DemoCluster(
            seed,
            services=services,
            speed=speed,
            hub=self.hub,
            metrics=metrics,
            wall=time.time,  # noqa: TID251
        )
        self._watch = Watch(self.hub, max(STILL_S, 300.0 / speed))
        self.what = f"A simulated cluster of {services} services, {speed:g} times as fast as life."

    def health(self) -> str:
        """What is wrong."""
        return self._watch.problem()

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Live through the past, then go on beside the server."""
        print("living through the demo's past ...", flush=True)
        self._cluster.begin()
        stop = threading.Event()
        with beside(lambda: self._cluster.run(stop), stop.set, server):
            yield


class DemoApart:
    """The same in a process of its own: a loop of hundreds of services does not share an interpreter with the server.

    That process keeps the journal, too, and makes the answers that are asked for most. Snapshots come through a pipe
    in small parts, so that taking one apart never keeps a request waiting for long.
    """

    def __init__(self, services: int, speed: float, seed: int, journal: str = "") -> None:
        self.hub, self.speed = Hub(), speed
        self.turns: Hub | None = None  # the other process keeps the journal
        self.trouble = ""
        self.metrics: MetricsPort | None = None
        self._given = (services, speed, seed, journal)
        self._watch = Watch(self.hub, max(STILL_S, 300.0 / speed))
        self.what = f"A simulated cluster of {services} services in a process of its own."
        self.tick_s: list[float] = []  # how long each tick took

    def health(self) -> str:
        """What is wrong."""
        return self._watch.problem()

    @contextlib.contextmanager
    def running(self, server: uvicorn.Server) -> Iterator[None]:
        """Begin the process, and publish what it sends."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_live_apart, args=(there, *self._given), daemon=True)
        process.start()
        there.close()

        def stop() -> None:
            with contextlib.suppress(OSError):
                here.send("stop")

        try:
            with beside(lambda: self._take(here), stop, server):
                yield
        finally:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
            here.close()

    def _take(self, pipe: Connection) -> None:
        parts: list[Snapshot] = []
        while True:
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                return
            if kind == "part":
                parts.extend(pickle.loads(value))  # from our own process
            else:
                self.hub.publish(parts)
                took_s, self.trouble = value
                self.tick_s.append(took_s)
                parts = []


def _live_apart(pipe: Connection, services: int, speed: float, seed: int, journal: str) -> None:
    """The process of `DemoApart`: ends when it is told to, or the other end of the pipe is gone."""
    from harmony.api.fast import prepare
    from harmony.journal import JournalStore, JournalWriter
    from simulator.demo import DemoCluster

    hub, stop = Hub(), threading.Event()
    cluster = DemoCluster(seed, services=services, speed=speed, hub=hub, wall=time.time)  # noqa: TID251

    writer: JournalWriter | None = None

    def show(snapshots: Sequence[Snapshot]) -> None:
        try:
            for first in range(0, len(snapshots), PART):
                part = [_portable(s) for s in snapshots[first : first + PART]]
                for snapshot in part:
                    prepare(snapshot)
                pipe.send(("part", pickle.dumps(part, protocol=5)))
            pipe.send(("tick", (cluster.times.last_s, "" if writer is None else writer.trouble)))
        except OSError:
            stop.set()

    def wait_for_end() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server tells us when to end
    with contextlib.ExitStack() as stack:
        if journal:
            store = stack.enter_context(JournalStore.open(journal))
            writer = JournalWriter(store, _told).follow(hub)
            stack.callback(writer.close)
        hub.subscribe(show)
        cluster.run(stop)


def _portable(snapshot: Snapshot) -> Snapshot:
    """Another of it without the density of its forecast, which is a function of the model's own process."""
    seen = snapshot.record.observation
    forecast = None if seen.forecast is None else replace(seen.forecast, log_prob_fn=None)
    return replace(snapshot, record=replace(snapshot.record, observation=replace(seen, forecast=forecast)))


@contextlib.contextmanager
def beside(work: Callable[[], object], stop: Callable[[], object], server: uvicorn.Server) -> Iterator[list[Exception]]:
    """Do ``work`` on a thread while the block runs; its failure ends the server and is raised at the end."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)
            server.should_exit = True

    thread = threading.Thread(target=run, name="harmony-loop", daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        stop()
        thread.join(STOP_S)
    if failed:
        raise failed[0]


# ---- journal ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def opened(url: str, *, temporary: bool) -> Iterator[tuple[JournalStore | None, str]]:
    """The journal at ``url`` and its address; without one, a ``temporary`` journal that ends with us, or none."""
    import tempfile

    from harmony.journal import JournalStore

    with contextlib.ExitStack() as stack:
        if not url and temporary:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="harmony-demo-"))
            url = f"sqlite:///{folder}/journal.db"
        yield (stack.enter_context(JournalStore.open(url)) if url else None), url


@contextlib.contextmanager
def recording(store: JournalStore | None, source: Source) -> Iterator[Callable[[], str]]:
    """Keep every turn that the hub is given; yields what tells of the journal's trouble ("" for none)."""
    from harmony.journal import JournalWriter

    if store is None or source.turns is None:
        yield lambda: source.trouble
        return
    writer = JournalWriter(store, _told).follow(source.turns)
    try:
        yield lambda: writer.trouble
    finally:
        writer.close()


@contextlib.contextmanager
def retaining(
    store: JournalStore | None, source: Source, days: float | None, inputs_days: float | None
) -> Iterator[None]:
    """Remove what is older than ``days`` now and every hour, if anything is recorded here."""
    if store is None or days is None or source.turns is None:
        yield
        return
    ended = threading.Event()

    def run() -> None:
        from forecasting.errors import HarmonyError

        while True:
            try:
                gone = store.retain(days, inputs_days=inputs_days)
            except HarmonyError as error:
                log.warning("the journal could not be shortened: %s", error)
            else:
                log.info("the journal was shortened", extra={"decisions": gone.decisions, "inputs_of": gone.inputs})
            if ended.wait(RETAIN_S):
                return

    thread = threading.Thread(target=run, name="harmony-retention", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(STOP_S)


def _told(trouble: str) -> None:
    log.error("%s; the loop goes on", trouble) if trouble else log.warning("the journal works again")


def explainer(store: JournalStore) -> ExplainPort:
    """Decisions recomputed from the journal."""
    from harmony.journal import explain

    def port(decision_id: str) -> Mapping[str, Any] | None:
        found = explain(store, decision_id)
        return None if found is None else found.to_json()

    return port


# ---- forecasting ------------------------------------------------------------------------------------------------
def forecaster(name: str) -> ForecastPort:
    """Joint forecasts of posted histories; the model is loaded with the first."""
    from forecasting.distribution import ForecastDistribution
    from forecasting.fleet import forecast_rows
    from forecasting.panel import Panel

    held: list[Any] = []

    def forecast(panel: Panel, horizon: int, samples: int) -> ForecastDistribution:
        if not held:
            from forecasting.forecaster import Forecaster

            held.append(Forecaster.load(name))
        return forecast_rows(held[0], panel, [len(panel) - 1], horizon, samples=samples)[0]

    return forecast


def model_cards(name: str) -> ModelsPort:
    """The model in use, and the methods that need none."""

    def cards() -> Sequence[Mapping[str, Any]]:
        from forecasting.forecaster import Forecaster
        from forecasting.methods import DEFAULT_METHOD, method_names, method_summary

        model = Forecaster.load(name)
        own = {
            "name": name,
            "version": model.version,
            "kind": "flow",
            "in_use": True,
            "description": "Hierarchical attention with a normalizing flow: joint forecasts of all indicators.",
            "lookback": model.config.lookback,
            "horizon": model.config.horizon,
            "parameters": model.parameters,
        }
        fitted = [
            {
                "name": method,
                "version": "fitted",
                "kind": "baseline",
                "in_use": False,
                "description": f"For backtests: {method_summary(method)}",
            }
            for method in method_names()
            if method != DEFAULT_METHOD
        ]
        return [own, *fitted]

    return cards


# ---- tokens -----------------------------------------------------------------------------------------------------
def token_reviewer(kubeconfig: str, context: str) -> TokenReviewer:
    """Asks the API server whose a token is (authentication.k8s.io/v1 TokenReview)."""
    from controller.kube.client import Kube
    from controller.kube.resources import TOKEN_REVIEWS
    from harmony.api.ports import TokenUser as User

    asked = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind, "metadata": {}}

    async def review(token: str) -> TokenUser | None:
        # A connection for each: tokens are reviewed once a minute at most, and our own credentials are read anew.
        async with await Kube.connect(kubeconfig or None, context or None) as kube:
            answer = await kube.create(TOKEN_REVIEWS, asked | {"spec": {"token": token}})
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return User(str(user.get("username", "")), tuple(map(str, user.get("groups") or ())))

    return review
