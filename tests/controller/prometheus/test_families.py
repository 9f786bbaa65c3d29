"""`Family`: which queries are of one family, and whose a series is, against the naive reading of their matchers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.prometheus.families import MATCHERS, MOST_NAMES, OWNER, family_of, read_matchers
from controller.resource.presets import PRESETS, Preset
from controller.resource.presets.base import default_apart, default_matchers, given_apart

KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet")
PIECES = st.sampled_from(["a", "chat", "x2k4q", "7d9f6c5b8", "1", "0", "12", "bcdfg", "llama.v2", "embed"])
NAMES = st.lists(PIECES, min_size=1, max_size=4).map("-".join)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_indicator_of_every_preset_can_be_asked_for_many(preset: Preset, kind: str) -> None:
    for template in preset.templates:
        mine, other = (template.kin(default_apart(preset, "serving", kind, name)) for name in ("chat", "embed"))
        assert mine is not None
        assert other is not None
        assert mine.family is other.family
        assert mine.member != other.member
        assert MATCHERS not in mine.family.query([mine.member, other.member])


@given(kind=st.sampled_from(KINDS), name=NAMES, pod=NAMES)
def test_a_pod_is_of_whom_the_single_query_takes_it_for(kind: str, name: str, pod: str) -> None:
    preset = PRESETS["vllm"]
    apart = default_apart(preset, "serving", kind, name)
    assert apart is not None
    stems = [found[1] for tail in apart.tails if (found := re.fullmatch(f"(.+){tail}", pod))]
    regex = re.search('pod=~"(.*)"', default_matchers(preset, "serving", kind, name))
    assert regex is not None
    assert (name in stems) is bool(re.fullmatch(regex[1], pod))
    assert stems.count(name) <= 1, "or the pod would count twice"


@pytest.mark.parametrize(
    "promql",
    [
        "m{<matchers>}",
        "sum(m{<matchers>}) or vector(0)",
        "sum(m{<matchers>}) / scalar(count(m{<matchers>}))",
        "sum(topk(2, m{<matchers>}))",
        "sum without (pod) (m{<matchers>})",
        "sum(m{<matchers>}) + m{<matchers>}",
        "absent(m{<matchers>})",
        "sum(m{<matchers>} * on (pod) group_left n{<matchers>})",
        'sum(m{job="x",<matchers>})',
        "max(sum by (pod) (m{<matchers>}))",
    ],
)
def test_what_does_more_than_aggregate_is_asked_alone(promql: str) -> None:
    assert family_of(promql, ("namespace",)) is None


def test_a_query_for_many() -> None:
    family = family_of("sum(m{<matchers>}) / sum by (le) (rate(n{<matchers>}[2m])) / 1e6", ("namespace",), 'job="x"')
    assert family is not None
    assert family.query([("a",), ("b.c",)]) == (
        'sum by (namespace) (m{namespace=~"a|b\\\\.c",job="x"}) / '
        'sum by (le, namespace) (rate(n{namespace=~"a|b\\\\.c",job="x"}[2m])) / 1e6'
    )
    assert family.query([("a",)]).count('namespace="a"') == 2
    assert family.member({"namespace": "a", "le": "1"}) == ("a",)


def test_many_names_are_not_spelled_out() -> None:
    family = family_of("sum(m{<matchers>})", ("namespace",), "", "pod", ("-[0-9]+",))
    assert family is not None
    few = [("a", f"s{i}") for i in range(MOST_NAMES)]
    assert "s49" in family.query(few)
    assert "(.+)" in family.query(few)
    many = family.query([*few, ("b", "s1000")])
    assert "s49" not in many
    assert 'pod=~".+(?:-[0-9]+)"' in many
    assert family.member({"namespace": "a", OWNER: "s1"}) == ("a", "s1")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('service="chat"', ({"service": "chat"}, "")),
        ("b='2', a=\"1\",", ({"a": "1", "b": "2"}, "")),
        ('model=~"l.*" , service=`chat`, x!="y"', ({"service": "chat"}, 'model=~"l.*",x!="y"')),
        ('service="chat",gone=""', ({"service": "chat"}, 'gone=""')),
        ("", None),
        ('service=~"chat"', None),
        ('service="chat",service="embed"', None),
        ('service="ch\\"at"', None),
        ('__name__="m"', None),
        ('service="chat" or up', None),
    ],
)
def test_matchers_that_people_give(text: str, read: tuple[dict[str, str], str] | None) -> None:
    assert read_matchers(text) == read


def test_matchers_given_tell_services_apart() -> None:
    one, two = given_apart('service="a",env="live"'), given_apart('env="live", service="b"')
    assert one is not None
    assert two is not None
    assert (one.labels, one.member, two.member) == (("env", "service"), ("live", "a"), ("live", "b"))
    assert given_apart("") is None
    assert default_apart(PRESETS["vllm"], "serving", "Rollout", "chat") is None
    assert default_apart(PRESETS["vllm"], "serving", "Deployment", "x" * 60) is None
