"""Plays the cluster's other parts over HTTP: what makes pods of Deployments, and what makes pods ready."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import aiohttp

from .api import ApiServer
from .mirror import Json, Key, Mirror, key_of
from .podstatus import is_ready, ready_status, unschedulable_status, workload_status
from .server import utc_now

MERGE = "application/merge-patch+json"
WORKLOADS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}
StartUp = Callable[[Json], float | None]
Owner = tuple[str, str, str]  # kind, namespace, name


class QuotaError(Exception):
    """No more pods may be made in this namespace."""


class Kubelet:
    """Deployment and StatefulSet controller, scheduler and kubelet in one; `async with`, or `with` in its own thread.

    `start_up_s` says how long a pod takes until it is ready (None: never), in seconds of the played world; real time
    is that over `time_scale`. `node_of` gives a pod its node ("" = none is free: it stays Pending, Unschedulable).
    A pod that a ResourceQuota has no room for is tried again later.
    On a server that runs the real controllers it only makes pods ready.
    """

    def __init__(
        self,
        server: ApiServer,
        *,
        start_up_s: StartUp = lambda pod: 0.0,
        time_scale: float = 1.0,
        node_of: Callable[[Json], str] = lambda pod: "node-1",
        timestamp: Callable[[], str] = utc_now,
        workers: int = 8,
    ) -> None:
        self._server = server
        self.start_up_s = start_up_s
        self.time_scale = time_scale
        self.node_of = node_of
        self._timestamp = timestamp
        self._workers = workers
        self._makes_pods = not server.runs_controllers
        self._tasks: list[asyncio.Task[None]] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._dirty: dict[Owner, None] = {}
        self._busy: set[Owner] = set()
        self._wake = asyncio.Event()
        self._count = 0
        self._owned: defaultdict[str, dict[Key, Json]] = defaultdict(dict)  # pods by their owner's uid
        self._mirrors: dict[str, Mirror] = {}
        self._thread: threading.Thread | None = None
        self.failures: list[str] = []

    # ---- life

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._server.tokens['admin']}", "User-Agent": "kubelet"}
        tls: Any = True
        if self._server.ca_file is not None:
            tls = ssl.create_default_context(cafile=self._server.ca_file)
        connector = aiohttp.TCPConnector(ssl=tls, limit=64)
        self._session = aiohttp.ClientSession(self._server.url, headers=headers, connector=connector)
        for kind, plural in WORKLOADS.items():
            self._mirrors[kind] = Mirror(self._session, f"/apis/apps/v1/{plural}", self._on_workload)
        self._mirrors["Pod"] = Mirror(self._session, "/api/v1/pods", self._on_pod)
        self._tasks = [asyncio.create_task(mirror.run()) for mirror in self._mirrors.values()]
        for mirror in self._mirrors.values():
            await asyncio.wait_for(mirror.synced.wait(), 60)
        self._tasks += [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers.values():
            timer.cancel()
        running = [*self._tasks, *self._jobs]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._session.close()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubelet", daemon=True)
        self._thread.start()
        self._run(self.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.__aexit__(kind, error, trace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def wait_settled(self, timeout_s: float = 60.0) -> None:
        """`settled`, for tests that hold the kubelet with a plain `with`."""
        self._run(self.settled(timeout_s))

    async def settled(self, timeout_s: float = 60.0) -> None:
        """Waits until every workload is as it was asked for, and no pod is about to become ready."""
        async with asyncio.timeout(timeout_s):
            while not await self._is_settled():
                await asyncio.sleep(0.02)

    async def _is_settled(self) -> bool:
        if self._dirty or self._busy or self._jobs or self._timers:
            return False
        if self.failures:
            raise AssertionError(f"kubelet: {self.failures}")
        for kind, plural in WORKLOADS.items():
            async with self._session.get(f"/apis/apps/v1/{plural}") as answer:
                listed = (await answer.json())["items"]
            for obj in listed:
                known = self._mirrors[kind].objects.get(key_of(obj))
                seen = (obj.get("status") or {}).get("observedGeneration", 0)
                if known is None or seen < obj["metadata"].get("generation", 0):
                    return False
        return not (self._dirty or self._busy or self._jobs or self._timers)

    async def mark(self, namespace: str, name: str, ready: bool) -> None:
        """Makes one pod ready, or not ready, now."""
        pod = self._mirrors["Pod"].objects[namespace, name]
        await self._patch_status(
            f"/api/v1/namespaces/{namespace}/pods/{name}", ready_status(pod, self._timestamp(), ready), "Pod"
        )

    # ---- what changes bring about

    def _on_workload(self, old: Json | None, new: Json | None) -> None:
        if new is not None and self._makes_pods:
            self._touch((new.get("kind") or self._kind_of(new), *key_of(new)))

    def _kind_of(self, obj: Json) -> str:
        """Items of lists of built-in kinds carry no kind."""
        return "StatefulSet" if "serviceName" in obj["spec"] or "podManagementPolicy" in obj["spec"] else "Deployment"

    def _on_pod(self, old: Json | None, new: Json | None) -> None:
        pod = new or old
        assert pod is not None
        for owner in pod["metadata"].get("ownerReferences") or ():
            if new is None:
                self._owned[owner["uid"]].pop(key_of(pod), None)
            else:
                self._owned[owner["uid"]][key_of(pod)] = pod
            if owner["kind"] in WORKLOADS and self._makes_pods:
                self._touch((owner["kind"], pod["metadata"].get("namespace", ""), owner["name"]))
        if new is None:
            if timer := self._timers.pop(pod["metadata"]["uid"], None):
                timer.cancel()
        elif old is None and not is_ready(new):
            self._begin(new)
        elif new["metadata"].get("deletionTimestamp"):
            self._do(self._delete_pod(new))

    def _begin(self, pod: Json) -> None:
        """Starts the clock of a new pod."""
        if not pod["spec"].get("nodeName") and self._makes_pods:
            self._do(self._patch_status(_path(pod), unschedulable_status(pod, self._timestamp()), "Pod"))
            return
        seconds = self.start_up_s(pod)
        if seconds is not None:
            uid = pod["metadata"]["uid"]
            loop = asyncio.get_running_loop()
            self._timers[uid] = loop.call_later(seconds / self.time_scale, self._become_ready, uid, key_of(pod))

    def _become_ready(self, uid: str, key: Key) -> None:
        self._timers.pop(uid, None)
        pod = self._mirrors["Pod"].objects.get(key)
        if pod is not None and pod["metadata"]["uid"] == uid:
            self._do(self._patch_status(_path(pod), ready_status(pod, self._timestamp(), True), "Pod"))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (aiohttp.ClientError, AssertionError, TimeoutError) as failure:
            self.failures.append(repr(failure))

    # ---- workloads

    def _touch(self, owner: Owner) -> None:
        self._dirty[owner] = None
        self._wake.set()

    async def _work(self) -> None:
        while True:
            owner = next((one for one in self._dirty if one not in self._busy), None)
            if owner is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            del self._dirty[owner]
            self._busy.add(owner)
            try:
                await self._guarded(self._reconcile(owner))
            finally:
                self._busy.discard(owner)
                self._wake.set()

    async def _reconcile(self, owner: Owner) -> None:
        workload = self._mirrors[owner[0]].objects.get((owner[1], owner[2]))
        if workload is None or workload["metadata"].get("deletionTimestamp"):
            return
        wanted = workload["spec"].get("replicas", 1)
        pods = self._pods_of(workload)
        for pod in _surplus(owner[0], pods, len(pods) - wanted):
            await self._delete_pod(pod)
        refused = ""
        try:
            for _ in range(wanted - len(pods)):
                await self._create_pod(owner[0], workload)
        except QuotaError as full:
            refused = str(full)
            retry_s = max(1.0 / self.time_scale, 0.05)
            asyncio.get_running_loop().call_later(retry_s, self._touch, owner)
        status = workload_status(owner[0], workload, self._pods_of(workload), refused, self._timestamp())
        if status is not None:
            path = f"/apis/apps/v1/namespaces/{owner[1]}/{WORKLOADS[owner[0]]}/{owner[2]}"
            await self._patch_status(path, status, owner[0])

    def _pods_of(self, workload: Json) -> list[Json]:
        owned = self._owned[workload["metadata"]["uid"]].values()
        return [
            pod
            for pod in owned
            if not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") != "Failed"
        ]

    async def _create_pod(self, kind: str, workload: Json) -> None:
        namespace, name = key_of(workload)
        template = workload["spec"]["template"]
        reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": workload["metadata"]["uid"]}
        metadata = {
            "name": self._pod_name(kind, workload),
            "namespace": namespace,
            "labels": (template.get("metadata") or {}).get("labels") or {},
            "annotations": (template.get("metadata") or {}).get("annotations") or {},
            "ownerReferences": [reference | {"controller": True, "blockOwnerDeletion": True}],
        }
        pod: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(template["spec"])}
        if node := self.node_of(pod):
            pod["spec"]["nodeName"] = node
        async with self._session.post(f"/api/v1/namespaces/{namespace}/pods", json=pod) as answer:
            body = await answer.json()
        if answer.status == 403:
            raise QuotaError(body["message"])
        assert answer.status in (201, 404, 409), body
        if answer.status == 201:
            self._count += 1  # a name that was refused is used again: the refusal stays the same
            self._mirrors["Pod"].put(body)

    def _pod_name(self, kind: str, workload: Json) -> str:
        name = workload["metadata"]["name"]
        if kind == "StatefulSet":
            taken = {key[1] for key in self._owned[workload["metadata"]["uid"]]}
            return next(f"{name}-{index}" for index in range(len(taken) + 1) if f"{name}-{index}" not in taken)
        return f"{name}-{workload['metadata']['uid'][:6]}-{self._count + 1:05d}"

    async def _delete_pod(self, pod: Json) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        async with self._session.delete(_path(pod), json=options) as answer:
            assert answer.status in (200, 404, 409), await answer.text()
        if answer.status == 200:
            self._mirrors["Pod"].drop(key_of(pod))

    async def _patch_status(self, path: str, status: Json, kind: str) -> None:
        async with self._session.patch(
            f"{path}/status", json={"status": status}, headers={"Content-Type": MERGE}
        ) as answer:
            body = await answer.json()
        assert answer.status in (200, 404, 409), body
        if answer.status == 200:
            self._mirrors[kind].put(body)


def _path(pod: Json) -> str:
    namespace, name = key_of(pod)
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _surplus(kind: str, pods: list[Json], count: int) -> list[Json]:
    """Which pods go: of a StatefulSet the highest ordinals, otherwise not ready ones first, newest first."""
    if count <= 0:
        return []
    if kind == "StatefulSet":
        return sorted(pods, key=lambda pod: int(pod["metadata"]["name"].rsplit("-", 1)[1]))[-count:]
    newest = sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]), reverse=True)
    return sorted(newest, key=is_ready)[:count]
