"""One connection to the API server: plain JSON objects in and out, bounded, timed and repeated where that is safe.

Configuration (kubeconfig, in-cluster, TLS, credential plugins) and transport are the official client's; its typed
models are not used: building them for thousands of objects costs more than all the rest of a tick.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import yaml
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from controller.kube.discovery import Discovery
from controller.kube.errors import Expired, NoCluster
from controller.kube.resources import ACCESS_REVIEWS, Resource
from controller.kube.retrying import Repeat
from controller.kube.sending import Sender
from controller.kube.wire import JSON, Ask, Call, surface_cuts
from forecasting.errors import UsageError
from harmony import __version__

__all__ = ["JSON", "Call", "Kube", "Listing", "PatchKind"]

PatchKind = Literal["merge", "json", "strategic", "apply"]

_PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
_PAGE = 500
_RESTARTS = 3


class Listing(NamedTuple):
    """Objects of a collection and the resource version to watch from."""

    items: list[JSON]
    resource_version: str


class Kube:
    """The API server, to be had from `connect`; every method raises KubeError, and nothing else, when it fails.

    At most `concurrency` requests are under way at a time; watches and leases do not count, so that a busy tick
    cannot cost the leadership. `calls` counts requests as they were sent, repeated ones too.
    """

    def __init__(self, sender: Sender, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.calls = sender.calls
        self._sender = sender
        self._discovery = Discovery(self._fetch, monotonic)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        *,
        concurrency: int = 64,
        timeout_s: float = 15.0,
        user_agent: str = f"harmony-controller/{__version__}",
        monotonic: Callable[[], float] = time.monotonic,
        jitter: np.random.Generator | None = None,
    ) -> Self:
        """Read the configuration: `kubeconfig`, else $KUBECONFIG, else ~/.kube/config, else the pod's own account.

        No request is sent yet. Raises UsageError if no usable configuration is found.
        """
        api = ApiClient(await _configure(kubeconfig, context))
        api.user_agent = user_agent
        sender = Sender(
            api,
            renew=lambda: _configure(kubeconfig, context),
            concurrency=concurrency,
            timeout_s=timeout_s,
            monotonic=monotonic,
            jitter=np.random.default_rng() if jitter is None else jitter,
        )
        return cls(sender, monotonic)

    def take_answers(self) -> Counter[tuple[Call, int]]:
        """Requests since the last call of this, by kind and HTTP status (0: no answer)."""
        taken = Counter(self._sender.answers)
        self._sender.answers.clear()
        return taken

    async def close(self) -> None:
        """Give up all connections."""
        await self._sender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- reading

    async def get(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        subresource: str = "",
        timeout_s: float | None = None,
    ) -> JSON:
        """One object, or its subresource."""
        return await self._sender.ask(
            self._prepare("GET", "get", resource, namespace, name, subresource, Repeat.READ, timeout_s=timeout_s)
        )

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        selector: str = "",
        fields: str = "",
        transform: Callable[[JSON], JSON | None] | None = None,
    ) -> Listing:
        """All objects of a namespace (None: of the cluster), page by page, each through `transform` (None drops it).

        Objects carry `apiVersion` and `kind` also where the API server leaves them out. If the continue token
        expires on the way, the list starts again; raises Expired when that happens over and over.
        """
        for restart in range(_RESTARTS):
            with contextlib.suppress(Expired) if restart < _RESTARTS - 1 else contextlib.nullcontext():
                return await self._pages(resource, namespace, _selectors(selector, fields), transform)
        raise AssertionError("the last attempt returns or raises")

    async def _pages(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: dict[str, str],
        transform: Callable[[JSON], JSON | None] | None,
    ) -> Listing:
        """One run through all pages of a list."""
        items: list[JSON] = []
        query = {"limit": str(_PAGE), **selectors}
        while True:
            ask = self._prepare("GET", "list", resource, namespace, None, "", Repeat.READ, query=query)
            page = await self._sender.ask(ask)
            for item in page.get("items") or ():
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                kept = item if transform is None else transform(item)
                if kept is not None:
                    items.append(kept)
            metadata = page.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                return Listing(items, str(metadata.get("resourceVersion") or ""))
            query = {**query, "continue": token}

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        selector: str = "",
        fields: str = "",
    ) -> AsyncGenerator[tuple[str, JSON], None]:
        """Changes since `resource_version` as (ADDED | MODIFIED | DELETED | BOOKMARK, object).

        Ends after four to five minutes, as the API server wants it, or after two minutes of silence (a connection
        that died unnoticed): go on from the last resource version. The first thing it yields is an empty BOOKMARK
        once the API server has agreed to watch. Close it with `contextlib.aclosing`. Raises Expired when the
        resource version is too old, Unavailable when the connection is cut.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            **_selectors(selector, fields),
        }
        ask = self._prepare("GET", "watch", resource, namespace, None, "", Repeat.READ, query=query)
        async with contextlib.aclosing(self._sender.stream(ask)) as events:
            async for event in events:
                yield event

    # ---- writing

    async def create(
        self, resource: Resource, obj: JSON, *, namespace: str | None = None, dry_run: bool = False
    ) -> JSON:
        """Make an object; its own namespace unless one is given."""
        namespace = namespace or _metadata(obj).get("namespace")
        query = {"dryRun": "All"} if dry_run else {}
        return await self._sender.ask(
            self._prepare("POST", "create", resource, namespace, None, "", body=obj, query=query)
        )

    async def replace(
        self,
        resource: Resource,
        obj: JSON,
        *,
        subresource: str = "",
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> JSON:
        """Put the object in place of the old one; raises Conflict if its resourceVersion is not the newest.

        Without a resourceVersion in it, it is sent once and overwrites.
        """
        metadata = _metadata(obj)
        repeat = Repeat.GUARDED if metadata.get("resourceVersion") else Repeat.ONCE
        where = (metadata.get("namespace"), str(metadata.get("name") or ""), subresource)
        query = {"dryRun": "All"} if dry_run else {}
        ask = self._prepare("PUT", "update", resource, *where, repeat, query=query, body=obj, timeout_s=timeout_s)
        return await self._sender.ask(ask)

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: JSON | Sequence[JSON],
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "harmony-controller",
        force: bool = False,
    ) -> JSON:
        """Change part of an object by merge (RFC 7386), JSON (RFC 6902) or strategic patch, or server-side apply.

        `force` takes over fields that another manager owns (apply only).
        """
        query = {"fieldManager": field_manager}
        if dry_run:
            query["dryRun"] = "All"
        if kind == "apply" and force:
            query["force"] = "true"
        ask = self._prepare(
            "PATCH",
            "patch",
            resource,
            namespace,
            name,
            subresource,
            query=query,
            body=patch,
            content_type=_PATCHES[kind],
        )
        return await self._sender.ask(ask)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str = "", dry_run: bool = False
    ) -> JSON:
        """Delete an object; with `uid`, only if it is still that one (else Conflict)."""
        body = {"preconditions": {"uid": uid}} if uid else None
        query = {"dryRun": "All"} if dry_run else {}
        ask = self._prepare("DELETE", "delete", resource, namespace, name, "", Repeat.GUARDED, query=query, body=body)
        return await self._sender.ask(ask)

    # ---- asking about the API server

    async def discover(self, api_version: str, kind: str) -> Resource:
        """The resource behind `apiVersion` and `kind` of a manifest; raises UnknownKind naming near ones."""
        return await self._discovery.resource(api_version, kind)

    async def has_subresource(self, resource: Resource, subresource: str) -> bool:
        """Whether objects of this kind have the subresource, such as `scale`."""
        return await self._discovery.has_subresource(resource, subresource)

    async def allowed(
        self, verb: str, resource: Resource, namespace: str | None = None, subresource: str = "", name: str = ""
    ) -> bool:
        """Whether RBAC lets us do this (namespace None: in all namespaces)."""
        attributes = {
            "verb": verb,
            "group": resource.group,
            "version": resource.version,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace or "",
            "name": name,
        }
        review = {
            "apiVersion": ACCESS_REVIEWS.api_version,
            "kind": ACCESS_REVIEWS.kind,
            "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
        }
        ask = self._prepare("POST", "create", ACCESS_REVIEWS, None, None, "", Repeat.READ, body=review)
        return bool(((await self._sender.ask(ask)).get("status") or {}).get("allowed"))

    async def version(self) -> JSON:
        """The API server's version, as in `gitVersion`."""
        return await self._fetch("/version")

    async def _fetch(self, path: str) -> JSON:
        """Read a path that is no object."""
        return await self._sender.ask(Ask("GET", path, Call("get", "", path, ""), f"get {path}", Repeat.READ))

    def _prepare(
        self,
        method: str,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        subresource: str,
        repeat: Repeat = Repeat.ONCE,
        **more: Any,  # noqa: ANN401
    ) -> Ask:
        """Put a request together, with the words that errors will use for it."""
        what = f"{resource.plural}/{subresource}" if subresource else resource.plural
        where = "/".join(part for part in (namespace, name) if part)
        return Ask(
            method,
            resource.path(namespace, name, subresource),
            Call(verb, resource.group, resource.plural, subresource),
            f"{verb} {what} {where}".rstrip(),
            repeat,
            **more,
        )


def _metadata(obj: JSON) -> JSON:
    """The metadata of an object, however incomplete it is."""
    metadata = obj.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _selectors(selector: str, fields: str) -> dict[str, str]:
    """Query parameters that narrow a list or watch."""
    return {k: v for k, v in (("labelSelector", selector), ("fieldSelector", fields)) if v}


async def _configure(kubeconfig: str | os.PathLike[str] | None, context: str | None) -> Any:  # noqa: ANN401
    """Read the configuration where `Kube.connect` says; raises UsageError."""
    given = os.fspath(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG", "")
    paths = given or str(Path.home() / ".kube" / "config")
    found = any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path)
    if given and not found:
        raise UsageError(f"there is no kubeconfig at {given}")
    # Bounded by our own semaphore; watches, which it does not count, must not use up connections either.
    # trust_env would look into ~/.netrc on a thread for each request; credentials come from the configuration alone
    session = {"middlewares": (surface_cuts,), "trust_env": False}
    configuration = Configuration(connection_pool_maxsize=0, client_session_kwargs=session)
    try:
        if found:
            await load_kube_config(paths, context or None, configuration, persist_config=False)
            configuration.api_key = {name: key.strip() for name, key in configuration.api_key.items()}
        else:
            load_incluster_config(configuration)
            configuration.refresh_api_key_hook = _lenient(configuration.refresh_api_key_hook)
    except (ConfigException, yaml.YAMLError, OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        where = f"kubeconfig {paths}" if found else "no kubeconfig was found, and this is not a pod's own account"
        raise (UsageError if found else NoCluster)(f"{where}: {error}") from error
    return configuration


def _lenient(refresh: Callable[[Any], None]) -> Callable[[Any], None]:
    """A token file that is being replaced is no reason to fail: the old token is good for minutes more.

    Should it not be, the API server says 401 and the configuration is read anew, with errors.
    """

    def refresh_if_readable(configuration: Any) -> None:  # noqa: ANN401
        with contextlib.suppress(ConfigException, OSError):
            refresh(configuration)

    return refresh_if_readable
