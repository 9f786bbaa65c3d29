"""`Fenced`: the API server for who may write only while this process leads; every write asks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controller.kube.client import Kube
from controller.kube.resources import Resource
from forecasting.errors import HarmonyError

__all__ = ["Fenced", "LeadershipLostError"]

Json = dict[str, Any]


class LeadershipLostError(HarmonyError):
    """A write was held back because this controller no longer leads."""


class Fenced:
    """Reads as `Kube` does; a write raises `LeadershipLostError` once ``may_act`` says no, and is not sent.

    It is asked right before each write, because what comes before (a read, a conflict) takes its time.
    """

    def __init__(self, kube: Kube, may_act: Callable[[], bool]) -> None:
        self._kube = kube
        self._may_act = may_act

    async def discover(self, api_version: str, kind: str) -> Resource:
        """As `Kube.discover`."""
        return await self._kube.discover(api_version, kind)

    async def get(self, resource: Resource, namespace: str, name: str, *, subresource: str = "") -> Json:
        """As `Kube.get`."""
        return await self._kube.get(resource, namespace, name, subresource=subresource)

    async def create(self, resource: Resource, obj: Json) -> Json:
        """As `Kube.create`."""
        self._check(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        return await self._kube.create(resource, obj)

    async def replace(self, resource: Resource, obj: Json, *, subresource: str = "") -> Json:
        """As `Kube.replace`."""
        self._check(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        return await self._kube.replace(resource, obj, subresource=subresource)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """As `Kube.patch`, merging."""
        self._check(resource, namespace, name)
        return await self._kube.patch(resource, namespace, name, patch)

    async def delete(self, resource: Resource, namespace: str, name: str) -> Json:
        """As `Kube.delete`."""
        self._check(resource, namespace, name)
        return await self._kube.delete(resource, namespace, name)

    def _check(self, resource: Resource, namespace: str, name: str) -> None:
        if not self._may_act():
            raise LeadershipLostError(f"{resource.kind} {namespace}/{name}: another controller leads now")
