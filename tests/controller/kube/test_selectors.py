"""Label selectors: both forms mean what the API server takes them to mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.kube.index import LabelIndex
from controller.kube.selectors import Requirement, Selector
from forecasting.errors import UsageError
from tests.kube.selectors import label_selector

KEYS = st.sampled_from(["app", "tier", "example.com/gpu", "a.b_c-d"])
VALUES = st.sampled_from(["", "x", "y", "v1.2_3-z"])
LABELS = st.dictionaries(KEYS, VALUES)
NAMED = st.frozensets(VALUES, min_size=1, max_size=3)
REQUIREMENTS = st.one_of(
    st.builds(Requirement, KEYS, st.sampled_from(["In", "NotIn"]), NAMED),
    st.builds(Requirement, KEYS, st.sampled_from(["Exists", "DoesNotExist"])),
)
SELECTORS = st.builds(Selector, st.lists(REQUIREMENTS, max_size=4).map(tuple))


def as_text(selector: Selector) -> str:
    words = {"In": "{} in ({})", "NotIn": "{} notin ({})", "Exists": "{}", "DoesNotExist": "!{}"}
    return ",".join(words[r.operator].format(r.key, ",".join(sorted(r.values))) for r in selector.requirements)


def as_object(selector: Selector) -> dict[str, Any]:
    return {
        "matchExpressions": [
            {"key": r.key, "operator": r.operator, **({"values": sorted(r.values)} if r.values else {})}
            for r in selector.requirements
        ]
    }


@given(SELECTORS)
def test_both_forms_are_read_as_written(selector: Selector) -> None:
    assert Selector.parse(as_text(selector)) == selector
    assert Selector.parse(as_object(selector)) == selector


@given(SELECTORS, LABELS)
def test_it_selects_what_the_api_server_selects(selector: Selector, labels: dict[str, str]) -> None:
    judge = label_selector(as_text(selector))
    expected = True if judge is None else judge({"metadata": {"labels": labels}})
    assert Selector.parse(as_text(selector)).matches(labels) == expected


@given(st.dictionaries(st.sampled_from("abcdefgh"), LABELS), SELECTORS, st.sets(st.sampled_from("abcdefgh")))
def test_the_index_misses_nothing(objects: dict[str, dict[str, str]], selector: Selector, removed: set[str]) -> None:
    index = LabelIndex()
    for name, labels in objects.items():
        index.add(("n", name), labels)
        index.add(("other", name), {"app": "x"})
    for name in removed & set(objects):
        index.remove(("n", name), objects.pop(name))
    wanted = {name for name, labels in objects.items() if selector.matches(labels)}
    candidates = set(index.candidates("n", selector))
    assert wanted <= candidates <= set(objects)
    assert set(index.candidates("n", Selector.parse(""))) == set(objects)


@pytest.mark.parametrize(
    ("text", "requirements"),
    [
        ("a=b", [Requirement("a", "In", frozenset({"b"}))]),
        ("a==b , c != d", [Requirement("a", "In", frozenset({"b"})), Requirement("c", "NotIn", frozenset({"d"}))]),
        ("a=", [Requirement("a", "In", frozenset({""}))]),
        ("x in (a, b),y notin(c),z,! w", None),
        (" in , notin ", [Requirement("in", "Exists"), Requirement("notin", "Exists")]),
        ("", []),
        ("  ", []),
    ],
)
def test_spellings(text: str, requirements: list[Requirement] | None) -> None:
    parsed = Selector.parse(text).requirements
    if requirements is None:
        assert [r.operator for r in parsed] == ["In", "NotIn", "Exists", "DoesNotExist"]
    else:
        assert list(parsed) == requirements


@pytest.mark.parametrize(
    "text", ["a=b,", ",a", "a b", "a in b", "a in (b", "=b", "a=b=c", "a!", "-a", "a in (b c)", "a>1"]
)
def test_unreadable_texts_are_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match=r"accepted: key=value|not a possible label value"):
        Selector.parse(text)


@pytest.mark.parametrize(
    "selector",
    [
        {"app": "chat"},
        {"matchLabels": ["app"]},
        {"matchExpressions": {"key": "app"}},
        {"matchExpressions": [{"operator": "Exists"}]},
        {"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]},
        {"matchExpressions": [{"key": "app", "operator": "In"}]},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": "chat"}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]},
    ],
)
def test_unreadable_objects_are_refused(selector: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Selector.parse(selector)


@given(st.text(alphabet="a!=,() in-./", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except UsageError:
        return
    assert Selector.parse(as_text(selector)) == selector
