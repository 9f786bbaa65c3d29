"""Which kinds the API server serves, asked once and remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from controller.kube.errors import NotFound, UnknownKind
from controller.kube.resources import Resource
from forecasting.errors import suggest

__all__ = ["Discovery"]

_ASK_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Served:
    """What one group version offers, and when (monotonic seconds) that was read."""

    kinds: dict[str, Resource]
    subresources: frozenset[str]
    read_s: float


class Discovery:
    """Looks kinds up by `apiVersion` and `kind` as manifests spell them.

    A kind that was found stays found. One that was not is asked for again after ten seconds, because its CRD may
    be installed while the controller runs.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[dict[str, Any]]], monotonic: Callable[[], float]) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._served: dict[str, _Served] = {}

    async def resource(self, api_version: str, kind: str) -> Resource:
        """The resource of a kind; raises UnknownKind naming near ones."""
        served = await self._read(api_version, lambda known: kind in known.kinds)
        if kind in served.kinds:
            return served.kinds[kind]
        where = f"discover {api_version} {kind}"
        if served.kinds:
            raise UnknownKind(where, f"{api_version} serves no kind {kind!r}; {suggest(kind, sorted(served.kinds))}")
        hint = suggest(api_version, await self._versions())
        raise UnknownKind(where, f"the API server does not serve {api_version!r}; {hint}")

    async def has_subresource(self, resource: Resource, subresource: str) -> bool:
        """Whether objects of this kind have it, as in `scale`."""
        name = f"{resource.plural}/{subresource}"
        served = await self._read(resource.api_version, lambda known: name in known.subresources)
        return name in served.subresources

    async def _read(self, api_version: str, has: Callable[[_Served], bool]) -> _Served:
        """What a group version serves: remembered if it answers the question or is fresh, else asked."""
        known = self._served.get(api_version)
        now = self._monotonic()
        if known is not None and (has(known) or now - known.read_s < _ASK_AGAIN_S):
            return known
        try:
            answer = await self._fetch(_root(api_version))
        except NotFound:
            answer = {}
        entries = [r for r in answer.get("resources") or () if isinstance(r, dict) and r.get("name")]
        group, _, version = api_version.rpartition("/")
        served = _Served(
            {
                entry["kind"]: Resource(group, version, entry["name"], entry["kind"], bool(entry.get("namespaced")))
                for entry in entries
                if "/" not in entry["name"]
            },
            frozenset(entry["name"] for entry in entries if "/" in entry["name"]),
            now,
        )
        self._served[api_version] = served
        return served

    async def _versions(self) -> list[str]:
        """Every group version that is served."""
        groups = (await self._fetch("/apis")).get("groups") or ()
        return ["v1", *(v["groupVersion"] for group in groups for v in group.get("versions") or ())]


def _root(api_version: str) -> str:
    """Where the API server describes a group version."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
