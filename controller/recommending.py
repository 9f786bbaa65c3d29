"""One decision for one service, without touching anything: what `harmony recommend` prints."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from controller.kube.client import Kube
from controller.kube.errors import NoCluster
from controller.kube.nowhere import Nowhere
from controller.process.settings import ControllerSettings
from controller.resource.group import HPA_KIND, KIND, SCALED_OBJECT_KIND
from controller.resource.settings import ServiceKey
from controller.runner import Controller
from forecasting.errors import DataError, suggest

__all__ = ["recommend"]

Json = dict[str, Any]
ROUNDS = 3  # a week of history may come in pieces


async def recommend(
    settings: ControllerSettings,
    namespace: str,
    name: str,
    given: Json | None = None,
    *,
    replicas: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Json:
    """The status that the controller would write for an object (its own name, or one not applied yet: ``given``).

    With ``replicas`` no cluster is asked: the decision for ``given`` is made as if so many were ready. Where nothing
    says where a cluster is, the manifest's least count stands for them, and ``note`` is told so.

    Raises `DataError` if there is no such object or it cannot be served, `KubeError` for trouble with the cluster.
    """
    alone = dataclasses.replace(
        settings,
        namespaces=(namespace,),
        selector="",
        dry_run=True,
        leader_elect=False,
        keda_address="",
        journal="",
        read_deadline_s=max(60.0, settings.read_deadline_s),
    )
    kube = await _cluster(settings, given, replicas, note)
    controller = await Controller.create(alone, given=() if given is None else (given,), kube=kube)
    try:
        await controller.reach()
        await controller.begin()
        for _ in range(ROUNDS):
            await controller.tick.run()
            found = _found(controller, namespace, name)
            if "lastScaleDecision" in found:
                break
            await asyncio.sleep(1.0)
        return found
    finally:
        await controller.close()


async def _cluster(
    settings: ControllerSettings, given: Json | None, replicas: int | None, note: Callable[[str], None]
) -> Kube:
    """The cluster that the settings name, or one that is not there (see `recommend`)."""
    if given is not None and replicas is not None:
        return Kube(Nowhere(given, replicas))
    try:
        return await Kube.connect(settings.kubeconfig or None, settings.context or None)
    except NoCluster:
        if given is None:
            raise
    spec = given.get("spec")
    least = spec.get("minReplicas") if isinstance(spec, dict) else None
    ready = least if isinstance(least, int) and not isinstance(least, bool) and least > 0 else 1
    counted = "1 replica was" if ready == 1 else f"{ready} replicas were"
    note(f"no cluster was found: decided as if {counted} ready; --replicas says how many are")
    return Kube(Nowhere(given, ready))


def _found(controller: Controller, namespace: str, name: str) -> Json:
    """The object's status, or an error that says what there is."""
    for kind in (KIND, HPA_KIND, SCALED_OBJECT_KIND):
        key = ServiceKey(kind, namespace, name)
        rejected = controller.fleet.rejected.get(key)
        if rejected is not None:
            raise DataError(rejected.why)
        if key in controller.fleet.services:
            return controller.reporter.current.get(key, {})
    known = sorted({k.name for k in controller.fleet.services})
    raise DataError(
        f"no GPUAutoscaler (nor annotated HorizontalPodAutoscaler or ScaledObject) {name!r} in namespace "
        f"{namespace!r}; {suggest(name, known) or 'there is none at all'}"
    )
