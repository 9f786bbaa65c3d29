"""One writer per target: of all who claim it exactly one is nobody's rival."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.observing.ownership import Claim, claims_of, rival_of, target_id
from controller.resource.group import HPA_KIND, KIND, SCALED_OBJECT_KIND
from controller.resource.settings import ServiceKey, TargetRef

Json = dict[str, Any]
CHAT = TargetRef("apps/v1", "Deployment", "chat")
TARGET = target_id("serving", CHAT)


def scaler(of: str, name: str, **ref: str) -> Json:
    return {
        "kind": of,
        "metadata": {"name": name, "namespace": "serving", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"scaleTargetRef": {"name": "chat"} | ref},
    }


def key(name: str, kind: str = KIND) -> ServiceKey:
    return ServiceKey(kind, "serving", name)


def test_another_scaler_of_the_target_is_a_rival_whatever_version_it_names() -> None:
    full = {"apiVersion": "apps/v1beta9", "kind": "Deployment"}
    claims = claims_of((HPA_KIND, [scaler("HorizontalPodAutoscaler", "hpa", **full)]))
    rival = rival_of(key("chat"), TARGET, claims, {})
    assert str(rival) == "HorizontalPodAutoscaler serving/hpa"
    other = target_id("serving", TargetRef("apps/v1", "StatefulSet", "chat"))
    assert rival_of(key("chat"), other, claims, {}) is None
    assert rival_of(key("chat"), target_id("batch", CHAT), claims, {}) is None


def test_the_autoscaler_of_a_scaled_object_is_the_scaled_object() -> None:
    kedas = scaler("HorizontalPodAutoscaler", "keda-hpa-so", apiVersion="apps/v1", kind="Deployment")
    kedas["metadata"]["ownerReferences"] = [{"kind": "ScaledObject", "name": "so"}]
    claims = claims_of((SCALED_OBJECT_KIND, [scaler("ScaledObject", "so")]), (HPA_KIND, [kedas]))
    assert [c.name for c in claims[TARGET]] == ["so"]
    assert rival_of(key("so", "ScaledObject"), TARGET, claims, {}) is None, "an annotated object is not its own rival"


def test_the_older_of_two_writes() -> None:
    old, young = (Claim(KIND, "serving", n, t) for n, t in (("b", "2026-01-01"), ("a", "2026-01-02")))
    ours = {TARGET: (young, old)}
    assert rival_of(key("b"), TARGET, {}, ours) is None
    assert rival_of(key("a"), TARGET, {}, ours) == old


def test_incomplete_objects_claim_nothing_of_others() -> None:
    odd = [
        {},
        {"metadata": {"name": "x"}},
        {"spec": None, "metadata": {}},
        {"spec": {"scaleTargetRef": {"kind": None}}},
    ]
    assert TARGET not in claims_of((SCALED_OBJECT_KIND, odd), (HPA_KIND, odd))


def test_who_comes_first_does_not_depend_on_the_order_in_which_objects_are_known() -> None:
    """A cache puts an object that changed last: what we write on one autoscaler must not make another one the owner."""
    hpas = [scaler(HPA_KIND, name) for name in ("b", "a")]
    for order in (hpas, hpas[::-1]):
        claims = claims_of((SCALED_OBJECT_KIND, [scaler("ScaledObject", "so")]), (HPA_KIND, order))
        assert [c.name for c in claims[TARGET]] == ["so", "a", "b"]


def test_a_name_that_two_kinds_share_is_not_the_same_object() -> None:
    ours = {TARGET: (Claim(KIND, "serving", "chat", "2026-01-01"),)}
    assert rival_of(key("chat", HPA_KIND), TARGET, {}, ours) == ours[TARGET][0]


claims = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["2026-01-01", "2026-01-02", ""])),
    unique_by=lambda c: c[0],
    min_size=1,
    max_size=6,
)


@given(claims, st.randoms())
def test_exactly_one_of_equals_has_no_rival(given_claims: list[tuple[str, str]], random: Any) -> None:
    ours = [Claim(KIND, "serving", name, since) for name, since in given_claims]
    first = [c.name for c in ours if rival_of(key(c.name), TARGET, {}, {TARGET: tuple(ours)}) is None]
    assert len(first) == 1
    random.shuffle(ours)
    assert [c.name for c in ours if rival_of(key(c.name), TARGET, {}, {TARGET: tuple(ours)}) is None] == first
    rivals = {rival_of(key(c.name), TARGET, {}, {TARGET: tuple(ours)}) for c in ours} - {None}
    assert {r.name for r in rivals if r is not None} <= set(first), "all others yield to the same one"
