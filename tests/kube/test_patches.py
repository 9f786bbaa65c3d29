"""Patches: laws that hold for all JSON, and the examples of the RFCs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .errors import ApiError
from .patches import json_patch, merge, strategic

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def difference(old: Any, new: Any) -> Any:
    """The merge patch from one value to another that holds no nulls."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    changed = {key: difference(old.get(key), value) for key, value in new.items() if old.get(key) != value}
    return changed | {key: None for key in old if key not in new}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@settings(deadline=None, max_examples=60)
@given(json_objects, json_objects)
def test_a_merge_patch_leads_where_it_was_made_for(old: Any, new: Any) -> None:
    old, new = without_nulls(old), without_nulls(new)
    assert merge(copy.deepcopy(old), difference(old, new)) == new


@settings(deadline=None, max_examples=60)
@given(json_objects, json_objects)
def test_a_merge_patch_twice_is_a_merge_patch_once(old: Any, patch: Any) -> None:
    once = merge(copy.deepcopy(old), copy.deepcopy(patch))
    assert merge(copy.deepcopy(once), copy.deepcopy(patch)) == once


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_examples(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


@pytest.mark.parametrize(
    ("operations", "result"),
    [  # RFC 6902, appendix A, on {"foo": ["bar", "baz"], "x": {"y": 1}}
        ([{"op": "add", "path": "/foo/1", "value": "q"}], {"foo": ["bar", "q", "baz"], "x": {"y": 1}}),
        ([{"op": "add", "path": "/foo/-", "value": "q"}], {"foo": ["bar", "baz", "q"], "x": {"y": 1}}),
        ([{"op": "remove", "path": "/foo/0"}], {"foo": ["baz"], "x": {"y": 1}}),
        ([{"op": "move", "from": "/x/y", "path": "/z"}], {"foo": ["bar", "baz"], "x": {}, "z": 1}),
        ([{"op": "copy", "from": "/x", "path": "/z"}], {"foo": ["bar", "baz"], "x": {"y": 1}, "z": {"y": 1}}),
    ],
)
def test_json_patch_examples(operations: Any, result: Any) -> None:
    assert json_patch({"foo": ["bar", "baz"], "x": {"y": 1}}, operations) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "add", "path": "/a/7", "value": 1},
        {"op": "test", "path": "/a", "value": 1},
        {"op": "paint", "path": "/a"},
        {"path": "/a"},
        {"op": "add", "path": "a", "value": 1},
    ],
)
def test_json_patches_that_cannot_be_done(operation: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        json_patch({"a": [1]}, [operation])
    assert refusal.value.code == 422


def test_strategic_directives() -> None:
    target = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "finalizers": ["x", "y"]}
    patch = {"containers": [{"name": "a", "$patch": "delete"}], "$deleteFromPrimitiveList/finalizers": ["x"]}
    assert strategic(target, patch) == {"containers": [{"name": "b", "image": "1"}], "finalizers": ["y"]}
    replaced = strategic({"containers": [{"name": "a"}]}, {"containers": [{"name": "c"}, {"$patch": "replace"}]})
    assert replaced == {"containers": [{"name": "c"}]}
