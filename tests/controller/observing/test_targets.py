"""Targets: looking at what is scaled, one target's trouble being nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controller.kube.client import Kube
from controller.observing.starts import PodStarts
from controller.observing.targets import Targets, is_own
from controller.resource.settings import TargetRef
from tests.controller.e2e.world import NAMESPACE, deployment
from tests.kube.kubelet import Kubelet
from tests.kube.server import FakeApiServer

CHAT = TargetRef("apps/v1", "Deployment", "chat")


def with_targets(
    api: FakeApiServer, folder: Path, work: Callable[[Targets], Awaitable[Any]], kubelet: Kubelet | None = None
) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            targets = Targets(kube, None, read_nodes=False)
            try:
                await targets.start()
                await work(targets)
            finally:
                await targets.stop()

    api.ensure_namespace(NAMESPACE)
    api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(3))
    if kubelet is not None:
        kubelet.wait_settled()
    asyncio.run(whole())


def test_a_kind_that_is_not_installed_does_not_make_the_controller_unready(
    fake_api: FakeApiServer, tmp_path: Path
) -> None:
    async def work(targets: Targets) -> None:
        there = await targets.look(NAMESPACE, CHAT, PodStarts(), 0.0)
        assert (there.problem, there.ordered) == ("", 3)
        lws = TargetRef("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "chat")
        view = await targets.look(NAMESPACE, lws, PodStarts(), 0.0)
        assert "LeaderWorkerSet serving/chat" in view.problem
        assert {str(c.resource.plural) for c in targets.caches} == {"pods", "deployments"}
        assert all(cache.is_synced for cache in targets.caches)

    with_targets(fake_api, tmp_path, work)


def labelled(name: str, owner: dict[str, Any] | None, **labels: str) -> dict[str, Any]:
    """A ready pod with the labels of chat's selector."""
    meta: dict[str, Any] = {"name": name, "uid": name, "namespace": NAMESPACE, "labels": {"app": "chat", **labels}}
    if owner is not None:
        meta["ownerReferences"] = [{"controller": True, "apiVersion": "apps/v1", **owner}]
    return {"metadata": meta, "status": {"phase": "Running"}}


def test_pods_are_taken_by_owner_where_labels_overlap() -> None:
    """A twin (chat-canary, or a bare pod for debugging) with the same labels is not the target's."""
    deployment_uid = "d-1"
    by_replica_set = {"kind": "ReplicaSet", "name": "chat-5d9f", "uid": "rs-1"}
    twin = {"kind": "ReplicaSet", "name": "chat-canary-77aa", "uid": "rs-2"}
    assert is_own(labelled("a", by_replica_set, **{"pod-template-hash": "5d9f"}), CHAT, deployment_uid)
    assert is_own(labelled("b", {"kind": "Deployment", "name": "chat", "uid": deployment_uid}), CHAT, deployment_uid)
    assert not is_own(labelled("c", twin, **{"pod-template-hash": "77aa"}), CHAT, deployment_uid)
    assert not is_own(labelled("d", None), CHAT, deployment_uid)
    assert not is_own(labelled("e", {"kind": "Job", "name": "chat", "uid": "j-1"}), CHAT, deployment_uid)
    rollout = TargetRef("argoproj.io/v1alpha1", "Rollout", "chat")
    canary = {"kind": "ReplicaSet", "name": "chat-77aa", "uid": "rs-3"}
    assert is_own(labelled("f", canary, **{"rollouts-pod-template-hash": "77aa"}), rollout, "r-1")
    assert not is_own(labelled("g", twin, **{"rollouts-pod-template-hash": "77aa"}), rollout, "r-1")
    assert is_own(labelled("h", None), TargetRef("example.com/v1", "Model", "chat"), "m-1")  # nothing known: labels


def test_a_rollout_that_takes_the_place_of_a_deployment_of_its_name_keeps_its_own_pods() -> None:
    """Both name their ReplicaSets alike while the one is scaled up and the other down; the labels tell them apart."""
    rollout = TargetRef("argoproj.io/v1alpha1", "Rollout", "chat")
    replica_set = {"kind": "ReplicaSet", "name": "chat-5d9f", "uid": "rs-1"}
    of_deployment = labelled("a", replica_set, **{"pod-template-hash": "5d9f"})
    of_rollout = labelled("b", replica_set, **{"rollouts-pod-template-hash": "5d9f"})
    assert [is_own(pod, CHAT, "d-1") for pod in (of_deployment, of_rollout)] == [True, False]
    assert [is_own(pod, rollout, "r-1") for pod in (of_deployment, of_rollout)] == [False, True]


def test_a_stateful_set_has_the_pods_that_it_has_adopted_and_no_others() -> None:
    """Deleted without its pods and made anew, as for another volume size: it takes them over one after the other."""
    made_anew = TargetRef("apps/v1", "StatefulSet", "chat")
    of = {"kind": "StatefulSet", "name": "chat"}
    pods = [
        labelled("chat-0", {**of, "uid": "new"}),
        labelled("chat-1", None),  # not adopted yet
        labelled("chat-2", {**of, "uid": "old"}),  # of the one that is going
        labelled("debug", {"kind": "ReplicaSet", "name": "chat-77aa", "uid": "rs"}, **{"pod-template-hash": "77aa"}),
        labelled("warm", {"kind": "DaemonSet", "name": "chat", "uid": "ds"}),
    ]
    assert [is_own(pod, made_anew, "new") for pod in pods] == [True, False, False, False, False]


def test_a_twin_with_overlapping_labels_does_not_count_as_ready(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(targets: Targets) -> None:
        async def ready(expected: int) -> None:
            async with asyncio.timeout(60):
                while (await targets.look(NAMESPACE, CHAT, PodStarts(), 0.0)).starts.pods != expected:
                    await asyncio.sleep(0.05)

        await ready(3)
        assert len(targets.pods.items()) == 8
        view = await targets.look(NAMESPACE, CHAT, PodStarts(), 0.0)
        assert (view.ordered, view.starts.pods) == (3, 3)

    twin = deployment(5)
    twin["metadata"]["name"] = "chat-twin"
    fake_api.ensure_namespace(NAMESPACE)
    fake_api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", twin)
    with Kubelet(fake_api) as kubelet:
        kubelet.wait_settled()
        with_targets(fake_api, tmp_path, work, kubelet)
