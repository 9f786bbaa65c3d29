"""The policy for Ray Serve: plain functions, and the class against a real API; in Serve itself where it is."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony.rayserve import Advice, HarmonyPolicy, advice_of, replicas
from harmony.serving import Snapshot
from tests.api.serving import key_for
from tests.dashboard.site import CLOSED, Site, running

NOW_S = 1_767_614_400.0
advices = st.none() | st.builds(Advice, st.integers(0, 60), st.floats(NOW_S - 1000, NOW_S), st.booleans())


@given(
    advices, st.integers(0, 60), st.floats(0, 500) | st.just(math.nan), st.none() | st.floats(0.5, 50),
    st.integers(0, 10), st.integers(10, 60),
)  # fmt: skip
def test_a_count_is_within_bounds_and_never_below_need_or_lowered_without_fresh_advice(
    advice: Advice | None, current: int, requests: float, per_replica: float | None, least: int, most: int
) -> None:
    count, why = replicas(advice, NOW_S, 180.0, current, requests, per_replica, least, most)
    assert least <= count <= most
    assert why
    if per_replica is not None and requests == requests:
        assert count == most or count * per_replica >= requests * (1 - 1e-9) - 1e-6
    if advice is None or advice.is_paused or advice.at_s < NOW_S - 180.0:
        assert count >= min(current, most)
    else:
        assert count >= min(advice.replicas, most)
        if per_replica is None:
            assert count == max(least, min(most, advice.replicas))


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {}, {"summary": None}, {"summary": {"recommended": 3}},
        {"summary": {"recommended": None, "at": "2026-01-01T00:00:00Z", "held_by": ""}},
        {"summary": {"recommended": -1, "at": "2026-01-01T00:00:00Z", "held_by": ""}},
        {"summary": {"recommended": 3, "at": "soon", "held_by": ""}},
        {"summary": {"recommended": 3, "at": None, "held_by": ""}},
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_no_advice(answer: Any) -> None:
    with pytest.raises(ValueError, match="no service of HARMONY's API"):
        advice_of(answer)


@pytest.mark.parametrize(
    ("url", "service", "said"),
    [("harmony:8000", "a/b", "url"), ("http://h", "chat", "NAMESPACE/NAME"), ("http://h", "a/b/c", "NAMESPACE/NAME")],
)
def test_what_is_no_address_is_refused_when_it_is_deployed(url: str, service: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HarmonyPolicy(url, service)


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as made:
        yield made


@pytest.fixture
def closed() -> Iterator[Site]:
    with running(CLOSED) as site:
        yield site


def context(**changes: Any) -> SimpleNamespace:
    """The fields of Serve's context that are read."""
    values = {
        "target_num_replicas": 4, "total_num_requests": 10.0, "config": SimpleNamespace(target_ongoing_requests=2.0),
        "capacity_adjusted_min_replicas": 1, "capacity_adjusted_max_replicas": 40,
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


def chat(site: Site) -> Snapshot:
    found = site.hub.latest("serving/chat")
    assert found is not None
    return found


def test_the_recommendation_of_a_real_server_is_followed_until_it_is_old(
    closed: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lowered before the first answer, after a refusal, or when turns have stopped."""
    now_s, wanted = closed.clock.now, chat(closed).recommended
    assert wanted > 5  # more than present requests need
    policy = HarmonyPolicy(closed.url, "serving/chat")
    assert policy.decide(context(), now_s) == (5, {"harmony": "no advice yet: held"})
    with caplog.at_level(logging.WARNING, "harmony.rayserve"):
        policy.ask()
        policy.ask()
        assert policy.decide(context(target_num_replicas=9), now_s)[0] == 9
        monkeypatch.setenv("HARMONY_API_KEY", key_for(closed.journal, "read"))
        closed.clock.monotonic += 60.0  # keys are read again
        policy.ask()
    assert [("401" in r.getMessage(), "answers again" in r.getMessage()) for r in caplog.records] == [
        (True, False), (False, True),
    ]  # fmt: skip
    assert policy.decide(context(), now_s + 60.0) == (wanted, {"harmony": "as recommended"})
    assert policy.decide(context(total_num_requests=70.0), now_s) == (35, {"harmony": "requests at present need more"})
    assert policy.decide(context(target_num_replicas=40), now_s + 181.0) == (40, {"harmony": "advice is old: held"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.skipif(
    importlib.util.find_spec("grpc_reflection") is None, reason="Ray Serve is not installed: pip install 'ray[serve]'"
)
def test_serves_autoscaling_keeps_makes_and_obeys_the_policy(site: Site) -> None:
    """By Serve's own code, without its processes: kept by value, made of its arguments, asked, its answer held by
    nothing with delays of 0."""
    from ray.serve._private.autoscaling_state import _apply_autoscaling_config, _resolve_policy_callable
    from ray.serve._private.common import DeploymentID
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    site.clock.now = time.time()  # noqa: TID251 - the policy's clock is the machine's
    site.tick()
    wanted = chat(site).recommended
    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=40,
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        policy={
            "policy_function": "harmony.rayserve:HarmonyPolicy",
            "policy_kwargs": {"url": site.url, "service": "serving/chat", "every_s": 0.1, "stale_s": 3600.0},
        },
    )
    policy = _apply_autoscaling_config(_resolve_policy_callable(config.policy))

    def asked(target: int) -> tuple[int, dict[str, Any]]:
        context = AutoscalingContext(
            deployment_id=DeploymentID("Chat", "chat"), deployment_name="Chat", app_name="chat",
            current_num_replicas=target, target_num_replicas=target, running_replicas=[], total_num_requests=3.0,
            total_queued_requests=0.0, aggregated_metrics=None, raw_metrics=None, capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=40, policy_state={}, last_scale_up_time=None, last_scale_down_time=None,
            current_time=None, config=config,
        )  # fmt: skip
        count, state = policy(context)
        return count, state

    assert asked(4)[0] == 4
    for _ in range(600):
        if asked(4)[1]["harmony"] == "as recommended":
            break
        time.sleep(0.1)
    assert asked(4)[0] == wanted
    assert asked(40)[0] == wanted  # downwards, too
