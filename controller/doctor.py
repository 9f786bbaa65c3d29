"""`harmony doctor`: what this installation can reach and may do, and how its objects stand; findings with cures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from controller.fleet.fleet import Fleet
from controller.fleet.ordering import standing_of
from controller.keda.board import Board
from controller.kube.client import Kube
from controller.kube.errors import KubeError, NotFound
from controller.kube.resources import (
    AUTOSCALERS,
    CRDS,
    DEPLOYMENTS,
    EVENTS,
    HPAS,
    LEADER_WORKER_SETS,
    LEASES,
    NODES,
    PODS,
    STATEFUL_SETS,
    TOKEN_REVIEWS,
    Resource,
)
from controller.observing.starts import PodStarts
from controller.observing.targets import Targets
from controller.outputs.actuation import Actuator
from controller.process.clock import LiveClock
from controller.process.settings import ControllerSettings
from controller.prometheus.errors import PrometheusError
from controller.prometheus.sources import Sources
from controller.resource.crd import crd_manifest
from controller.resource.group import GROUP, PLURAL
from controller.runner import own_namespace
from controller.service import Service
from forecasting.errors import HarmonyError
from harmony import __version__
from harmony.metrics import Metrics

__all__ = ["Finding", "examine"]

Json = dict[str, Any]
Severity = Literal["ok", "warning", "failed"]
OLDEST_MINOR = 29  # CEL validation of custom resources is stable from here on

NEEDED: tuple[tuple[str, Resource, str], ...] = (
    ("list", AUTOSCALERS, ""),
    ("watch", AUTOSCALERS, ""),
    ("patch", AUTOSCALERS, "status"),
    ("list", PODS, ""),
    ("watch", PODS, ""),
    ("list", DEPLOYMENTS, ""),
    ("update", DEPLOYMENTS, "scale"),
    ("get", DEPLOYMENTS, "scale"),
    ("list", STATEFUL_SETS, ""),
    ("update", STATEFUL_SETS, "scale"),
    ("list", HPAS, ""),
    ("watch", HPAS, ""),
    ("create", EVENTS, ""),
)
WANTED: tuple[tuple[str, Resource, str, str], ...] = (
    ("patch", HPAS, "", "mode Floor cannot keep minimums of HorizontalPodAutoscalers"),
    ("list", NODES, "", "start-up times are not told apart by GPU type"),
    ("update", LEADER_WORKER_SETS, "scale", "LeaderWorkerSets cannot be scaled"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``cure`` says what to do about a warning or failure."""

    about: str
    verdict: Severity
    text: str
    cure: str = ""


async def examine(settings: ControllerSettings, *, token_review: bool = False) -> AsyncIterator[Finding]:
    """Look at everything in order (``token_review``: also at what the API needs to accept Kubernetes tokens).

    Stops early only where nothing further can be known.
    """
    try:
        kube = await Kube.connect(settings.kubeconfig or None, settings.context or None)
    except HarmonyError as error:
        yield Finding("API server", "failed", str(error), "give --kubeconfig or run inside the cluster")
        return
    clock = LiveClock()
    sources = Sources(settings.prometheus, clock.monotonic_s)
    try:
        server = await _server(kube)
        yield server
        if server.verdict == "failed":
            return
        yield await _crd(kube)
        for finding in await _permissions(kube, settings):
            yield finding
        if token_review:
            yield await _tokens(kube)
        yield await _prometheus(settings, sources, clock)
        async for finding in _objects(kube, settings, sources, clock):
            yield finding
    finally:
        await sources.close()
        await kube.close()


async def _server(kube: Kube) -> Finding:
    try:
        version = await kube.version()
    except KubeError as error:
        return Finding("API server", "failed", str(error), "check address, credentials and network policy")
    name = str(version.get("gitVersion", "?"))
    minor = "".join(ch for ch in str(version.get("minor", "")) if ch.isdigit())
    if minor and int(minor) < OLDEST_MINOR:
        return Finding("API server", "warning", f"{name} answers", f"1.{OLDEST_MINOR} or newer checks objects with CEL")
    return Finding("API server", "ok", f"{name} answers")


async def _crd(kube: Kube) -> Finding:
    install = "harmony crd | kubectl apply --server-side -f -   (or let the chart do it: crds.install=true)"
    try:
        found = await kube.get(CRDS, None, f"{PLURAL}.{GROUP}")
    except NotFound:
        return Finding("CRD", "warning", "GPUAutoscaler is not installed; annotated objects work without", install)
    except KubeError as error:
        return Finding("CRD", "warning", f"cannot be looked at: {error}", "grant get on its customresourcedefinition")
    ours = crd_manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    theirs = next((v for v in found["spec"]["versions"] if v["name"] == AUTOSCALERS.version and v.get("served")), None)
    if theirs is None:
        return Finding("CRD", "failed", f"version {AUTOSCALERS.version} is not served", install)
    known = theirs["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    missing = sorted(set(ours) - set(known))
    if missing:
        return Finding("CRD", "warning", f"older than this program: no {', '.join(missing)} in its spec", install)
    return Finding("CRD", "ok", f"{PLURAL}.{GROUP} serves {AUTOSCALERS.version}")


async def _permissions(kube: Kube, settings: ControllerSettings) -> list[Finding]:
    scopes: tuple[str | None, ...] = settings.namespaces or (None,)
    reading = ("get", "list", "watch")
    denied: list[str] = []
    out: list[Finding] = []
    for namespace in scopes:
        where = f" in namespace {namespace}" if namespace else ""
        for verb, resource, subresource in NEEDED:
            if settings.dry_run and verb not in reading:
                continue
            if not await kube.allowed(verb, resource, namespace, subresource):
                denied.append(f"{verb} {_named(resource, subresource)}{where}")
        for verb, resource, subresource, cost in WANTED:
            if settings.dry_run and verb not in reading:
                continue
            scope = namespace if resource.namespaced else None
            if not await kube.allowed(verb, resource, scope, subresource):
                text = f"may not {verb} {_named(resource, subresource)}{where}: {cost}"
                out.append(Finding("permissions", "warning", text, "see rbac.* in the chart's values"))
    lease_namespace = settings.lease_namespace or own_namespace()
    lease = settings.lease_name
    if settings.elects and not await kube.allowed("update", LEASES, lease_namespace, name=lease):
        denied.append(f"update the lease {lease} in namespace {lease_namespace}")
    if denied:
        cure = "install the chart's roles (rbac.create=true), or run with the controller's service account"
        out.insert(0, Finding("permissions", "failed", f"may not {'; '.join(denied)}", cure))
    else:
        out.insert(0, Finding("permissions", "ok", "everything that the controller needs is allowed"))
    return out


async def _tokens(kube: Kube) -> Finding:
    if await kube.allowed("create", TOKEN_REVIEWS):
        return Finding("tokens", "ok", "Kubernetes tokens can be reviewed")
    text = "may not create tokenreviews: nobody gets in with a Kubernetes token, API keys still work"
    return Finding(
        "tokens", "failed", text, "install the chart's roles (rbac.create=true), which hold it in a role apart"
    )


def _named(resource: Resource, subresource: str) -> str:
    return f"{resource.plural}/{subresource}" if subresource else resource.plural


async def _prometheus(settings: ControllerSettings, sources: Sources, clock: LiveClock) -> Finding:
    if not settings.prometheus.url:
        cure = "give --prometheus-url, or set spec.prometheus.url in every object"
        return Finding("Prometheus", "warning", "the controller has no Prometheus of its own", cure)
    try:
        theirs = await sources.prometheus().now_s()
    except HarmonyError as error:
        return Finding("Prometheus", "failed", str(error), "check address, token and network policy")
    apart = theirs - clock.now_s()
    if abs(apart) > 5.0:
        text = f"{settings.prometheus.url} answers; its clock is {apart:+.0f} s from this machine's"
        return Finding("Prometheus", "warning", text, "mend time synchronisation; decisions follow Prometheus's clock")
    return Finding("Prometheus", "ok", f"{settings.prometheus.url} answers, clocks agree")


async def _objects(
    kube: Kube, settings: ControllerSettings, sources: Sources, clock: LiveClock
) -> AsyncIterator[Finding]:
    """Every object that is or wants to be served."""
    namespaces = settings.namespaces or None
    fleet = Fleet(kube, namespaces, settings.selector, sources.feed, interval_s=settings.interval_s)
    targets = Targets(kube, namespaces, read_nodes=False)
    try:
        await fleet.start()
        await targets.start()
        fleet.sync()
        if not fleet.services and not fleet.rejected:
            yield Finding("objects", "warning", "there is nothing to scale yet", "apply an example in mode Recommend")
        for key, rejected in sorted(fleet.rejected.items()):
            yield Finding(str(key), "failed", rejected.why, "mend the object; its last good version stays in force")
        for _, service in sorted(fleet.services.items()):
            for finding in await _service(service, targets, clock):
                yield finding
        outputs = Actuator.over(kube, Board(), Metrics(__version__), lambda: False, dry_run=True)
        standings = [standing_of(s, fleet.owner_of(s), fleet.since(key)) for key, s in fleet.services.items()]
        outputs.survey(standings, fleet.neighbours())
        for obj, text in outputs.left():
            about = f"{obj['kind']} {obj['metadata']['namespace']}/{obj['metadata']['name']}"
            yield Finding(about, "warning", text, "start the controller")
        for finding in _tolerance(fleet):
            yield finding
    except KubeError as error:
        yield Finding("objects", "failed", str(error), "")
    finally:
        await fleet.stop()
        await targets.stop()


async def _service(service: Service, targets: Targets, clock: LiveClock) -> list[Finding]:
    """One object's target, rivals and queries."""
    settings, about, out = service.settings, str(service.settings.key), []
    view = await targets.look(settings.key.namespace, settings.target, PodStarts(), clock.now_s())
    if view.problem:
        out.append(Finding(about, "failed", view.problem, "check spec.scaleTargetRef"))
    else:
        text = f"{settings.target.kind} {settings.target.name}: {view.ordered} current, {view.ready} ready"
        out.append(Finding(about, "ok", text))
    out += [Finding(about, "warning", text, "see docs/howto/demand-queries.md") for text in settings.warnings]
    contested = bool(service.rival) and settings.writes_count
    if contested and not settings.mode.acts:
        out.append(Finding(about, "ok", f"{service.rival} scales the target, and may stay in mode {settings.mode}"))
    elif contested and settings.mode.moves_count:
        cure = f"remove one of the two, use mode Floor, or actuation External (granted: {settings.mode})"
        out.append(Finding(about, "failed", f"{service.rival} scales the same target", cure))
    service.expects(view, clock.now_s())
    try:
        state = await service.feed.refresh(clock.now_s())
    except PrometheusError as error:
        return [*out, Finding(about, "failed", str(error), "check spec.prometheus.url")]
    for indicator in state.indicators:
        fine = not indicator.message
        verdict: Severity = "ok" if fine else "failed" if indicator is state.indicators[0] else "warning"
        text = f"indicator {indicator.name}: " + (f"{indicator.reason}" if fine else indicator.message)
        out.append(Finding(about, verdict, text, "" if fine else "run the query in Prometheus and mend it"))
    return out


def _tolerance(fleet: Fleet) -> Iterable[Finding]:
    """HPAs that read our figure but ignore changes within their tolerance."""
    for obj in fleet.hpas():
        metrics = (obj.get("spec") or {}).get("metrics") or ()
        names = [str(((m.get("external") or {}).get("metric") or {}).get("name", "")) for m in metrics]
        if not any("harmony" in name for name in names):
            continue
        behavior = (obj.get("spec") or {}).get("behavior") or {}
        if all("tolerance" in (behavior.get(way) or {}) for way in ("scaleUp", "scaleDown")):
            continue
        meta = obj["metadata"]
        text = "reads our figure, but ignores changes within its tolerance of 10 % (10 -> 11 replicas is one)"
        cure = "set behavior.scaleUp.tolerance and behavior.scaleDown.tolerance to 0 (Kubernetes 1.35 and newer)"
        yield Finding(f"HorizontalPodAutoscaler {meta.get('namespace')}/{meta['name']}", "warning", text, cure)
