"""A cluster that is not there: one target with replicas that serve, for a decision without a cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from controller.kube.errors import NotFound
from controller.kube.resources import ACCESS_REVIEWS, AUTOSCALERS, PODS
from controller.kube.sending import Sender
from controller.kube.wire import JSON, Ask, Call

__all__ = ["Nowhere"]

LABEL = {"harmony": "target"}
LONG_AGO = "2020-01-01T00:00:00Z"
PLURAL = "targets"  # of kinds that nobody knows the plural of


class Nowhere(Sender):
    """Answers as an API server would that holds the target of a manifest, ``replicas`` of it ready for long.

    It is what a `Kube` sends its requests to instead of a connection. Nothing can be written to it.
    """

    def __init__(self, manifest: Mapping[str, Any], replicas: int) -> None:  # there is no connection to set up
        self.calls: Counter[Call] = Counter()
        self.answers: Counter[tuple[Call, int]] = Counter()
        spec = manifest.get("spec")
        target = spec.get("scaleTargetRef") if isinstance(spec, Mapping) else None
        self._target: Mapping[str, Any] = target if isinstance(target, Mapping) else {}
        self._version = str(self._target.get("apiVersion") or "apps/v1")
        self._namespace = str(manifest["metadata"]["namespace"])
        self._replicas = replicas

    async def close(self) -> None:
        """Nothing to close."""

    async def ask(self, ask: Ask) -> JSON:
        """The answer; raises `NotFound` for what is not there."""
        self.calls[ask.call] += 1
        if ask.call.resource.startswith("/"):  # a path that is no object: what is served
            return self._served(ask.path)
        if ask.call.subresource == "scale" and ask.call.verb == "get":
            return self._workload() | {"status": {"selector": ",".join(f"{k}={v}" for k, v in LABEL.items())}}
        if ask.call.verb == "list":
            return {"items": self._items(ask.call), "metadata": {"resourceVersion": "1"}}
        if ask.call.resource == ACCESS_REVIEWS.plural:
            return {}
        raise NotFound(ask.action, "there is no cluster")

    async def stream(self, ask: Ask) -> AsyncGenerator[tuple[str, JSON], None]:
        """A watch in which nothing happens."""
        self.calls[ask.call] += 1
        yield "BOOKMARK", {}
        await asyncio.Event().wait()

    def _served(self, path: str) -> JSON:
        """What a group version offers: the target's kind with its scale, and our own."""
        own = AUTOSCALERS
        found = []
        if path == f"/apis/{own.api_version}":
            found += [{"name": own.plural, "kind": own.kind, "namespaced": True}]
        if path == f"/apis/{self._version}":
            kind = str(self._target.get("kind"))
            found += [{"name": name, "kind": kind, "namespaced": True} for name in (PLURAL, f"{PLURAL}/scale")]
        return {"resources": found}

    def _items(self, call: Call) -> list[JSON]:
        """The target itself, or its pods."""
        if (call.group, call.resource) == (PODS.group, PODS.plural):
            return [self._pod(i) for i in range(self._replicas)]
        group = self._version.rpartition("/")[0]
        kind = str(self._target.get("kind", "")).lower() + "s"
        return [self._workload()] if (call.group, call.resource) == (group, kind) else []

    def _workload(self) -> JSON:
        """The target, whose pods are told by their label."""
        meta = {"name": self._target.get("name"), "namespace": self._namespace, "uid": "target", "resourceVersion": "1"}
        return {"metadata": meta, "spec": {"replicas": self._replicas, "selector": {"matchLabels": dict(LABEL)}}}

    def _pod(self, number: int) -> JSON:
        """A pod that serves. Its containers were restarted once, so that nothing is learned of how long it took."""
        owner = {"kind": "Target", "name": self._target.get("name"), "uid": "target", "controller": True}
        return {
            "metadata": {
                "name": f"pod-{number}",
                "namespace": self._namespace,
                "uid": f"pod-{number}",
                "labels": dict(LABEL),
                "creationTimestamp": LONG_AGO,
                "ownerReferences": [owner],
            },
            "status": {
                "phase": "Running",
                "startTime": LONG_AGO,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}],
                "containerStatuses": [{"restartCount": 1}],
            },
        }
