"""The player of the cluster's other parts, against the fake server."""

from __future__ import annotations

import asyncio
import time

from .api import Json
from .kubelet import Kubelet
from .objects import deployment, stateful_set
from .podstatus import is_ready
from .server import FakeApiServer

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"


def pods(server: FakeApiServer) -> list[Json]:
    listed: list[Json] = server.must("GET", PODS)["items"]
    return listed


def scale(server: FakeApiServer, name: str, replicas: int) -> None:
    server.must("PATCH", f"{DEPLOYMENTS}/{name}/scale", {"spec": {"replicas": replicas}})


def test_a_deployment_gets_ready_pods(fake_api: FakeApiServer) -> None:
    with Kubelet(fake_api) as kubelet:
        fake_api.must("POST", DEPLOYMENTS, deployment("chat", replicas=3))
        kubelet.wait_settled()
        status = fake_api.must("GET", f"{DEPLOYMENTS}/chat")["status"]
        assert (status["replicas"], status["readyReplicas"], status["observedGeneration"]) == (3, 3, 1)
        assert all(is_ready(pod) and pod["metadata"]["labels"] == {"app": "chat"} for pod in pods(fake_api))
        assert {pod["metadata"]["ownerReferences"][0]["name"] for pod in pods(fake_api)} == {"chat"}
        scale(fake_api, "chat", 1)
        kubelet.wait_settled()
        assert len(pods(fake_api)) == 1
        scale(fake_api, "chat", 0)
        kubelet.wait_settled()
        status = fake_api.must("GET", f"{DEPLOYMENTS}/chat")["status"]
        assert pods(fake_api) == []
        assert "replicas" not in status  # absent, as from a real server


def test_pods_take_their_time_and_some_never_start(fake_api: FakeApiServer) -> None:
    names: list[str] = []

    def start_up_s(pod: Json) -> float | None:
        names.append(pod["metadata"]["name"])
        return 20.0 if len(names) == 1 else None

    with Kubelet(fake_api, start_up_s=start_up_s, time_scale=100) as kubelet:
        before = time.monotonic()
        fake_api.must("POST", DEPLOYMENTS, deployment("chat", replicas=2))
        kubelet.wait_settled()
        assert time.monotonic() - before >= 0.2
        status = fake_api.must("GET", f"{DEPLOYMENTS}/chat")["status"]
        assert (status["replicas"], status["readyReplicas"], status["unavailableReplicas"]) == (2, 1, 1)
        scale(fake_api, "chat", 1)
        kubelet.wait_settled()
        assert [pod["metadata"]["name"] for pod in pods(fake_api)] == names[:1]  # the ready one stays


def test_a_full_namespace_says_so(fake_api: FakeApiServer) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}
    fake_api.must("POST", "/api/v1/namespaces/default/resourcequotas", quota)
    with Kubelet(fake_api, time_scale=0.1) as kubelet:
        fake_api.must("POST", DEPLOYMENTS, deployment("chat", replicas=5))
        kubelet.wait_settled()
        conditions = fake_api.must("GET", f"{DEPLOYMENTS}/chat")["status"]["conditions"]
        failure = next(one for one in conditions if one["type"] == "ReplicaFailure")
        assert failure["status"] == "True"
        assert "exceeded quota" in failure["message"]
        assert len(pods(fake_api)) == 2


def test_pods_without_a_node_stay_pending(fake_api: FakeApiServer) -> None:
    with Kubelet(fake_api, node_of=lambda pod: "") as kubelet:
        fake_api.must("POST", DEPLOYMENTS, deployment("chat"))
        kubelet.wait_settled()
        (pod,) = pods(fake_api)
        assert pod["status"]["phase"] == "Pending"
        assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"


def test_stateful_sets_count_their_pods_and_drop_the_last(fake_api: FakeApiServer) -> None:
    sets = "/apis/apps/v1/namespaces/default/statefulsets"
    with Kubelet(fake_api) as kubelet:
        fake_api.must("POST", sets, stateful_set("llm", replicas=3))
        kubelet.wait_settled()
        assert {pod["metadata"]["name"] for pod in pods(fake_api)} == {"llm-0", "llm-1", "llm-2"}
        fake_api.must("PATCH", f"{sets}/llm/scale", {"spec": {"replicas": 2}})
        kubelet.wait_settled()
        assert {pod["metadata"]["name"] for pod in pods(fake_api)} == {"llm-0", "llm-1"}
        assert fake_api.must("GET", f"{sets}/llm/scale")["status"]["replicas"] == 2


def test_a_deleted_pod_is_replaced_and_a_marked_one_is_not_ready(fake_api: FakeApiServer) -> None:
    async def run() -> None:
        async with Kubelet(fake_api) as kubelet:
            await asyncio.to_thread(fake_api.must, "POST", DEPLOYMENTS, deployment("chat"))
            await kubelet.settled()
            first = pods(fake_api)[0]["metadata"]["name"]
            fake_api.must("DELETE", f"{PODS}/{first}")
            async with asyncio.timeout(60):
                while [pod["metadata"]["name"] for pod in pods(fake_api) if is_ready(pod)] in ([], [first]):
                    await asyncio.sleep(0.01)
            second = pods(fake_api)[0]["metadata"]["name"]
            assert second != first
            await kubelet.mark("default", second, ready=False)
            await kubelet.settled()
            assert "readyReplicas" not in fake_api.must("GET", f"{DEPLOYMENTS}/chat")["status"]

    asyncio.run(run())


def test_it_survives_cut_and_expired_watches(fake_api: FakeApiServer) -> None:
    with Kubelet(fake_api) as kubelet:
        fake_api.must("POST", DEPLOYMENTS, deployment("chat"))
        kubelet.wait_settled()
        fake_api.cut_watches()
        fake_api.compact(expire_watches=True)
        scale(fake_api, "chat", 4)
        kubelet.wait_settled()
        assert len(pods(fake_api)) == 4
