"""Quoting: whatever a name holds stays a value, on the real parser too."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.prometheus.client import Prometheus
from controller.prometheus.promql import label_name, matcher, quote, quote_regex
from forecasting.errors import UsageError
from tests.controller.prometheus.data import END
from tests.prom.real import RealPrometheus

INJECTIONS = [
    'a"} or vector(1) or x{y="',
    "\\",
    '\\"',
    'x\\" } or vector(1) #',
    "two\nlines",
    "tab\tand\rreturn",
    "\x00\x07\x7f",
    "größe 雪 🙂",
    "' or `",
    "",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_is_quoted_comes_back_unchanged(prom: RealPrometheus, text: str) -> None:
    async def ask() -> None:
        async with Prometheus(prom.url) as client:
            shown = await client.query(f'label_replace(vector(1), "got", {quote(text.replace("$", "$$"))}, "", "")')
            assert len(shown) == 1
            assert shown[0].labels.get("got", "") == text
            assert await client.query("pods{" + matcher("pod", text) + "}") == []
            assert await client.query(f"pods{{pod=~{quote_regex(text)},pod!=''}}") == []

    asyncio.run(ask())


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_quoted_text_is_one_string(text: str) -> None:
    quoted = quote(text)
    inner = quoted[1:-1]
    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert not re.search(r'(?<!\\)(?:\\\\)*"', inner)
    assert not any(ord(c) < 0x20 or ord(c) == 0x7F for c in inner)
    assert len(re.findall(r"\\+$", inner)) == 0 or len(re.findall(r"\\+$", inner)[0]) % 2 == 0


def test_a_quoted_pattern_matches_itself_only(prom: RealPrometheus) -> None:
    async def ask() -> list[int]:
        async with Prometheus(prom.url) as client:
            patterns = ["a", "a|b", ".", "[abc]"]
            return [len(await client.query("pods{" + f"pod=~{quote_regex(p)}" + "}", at_s=END)) for p in patterns]

    assert asyncio.run(ask()) == [1, 0, 0, 0]


@pytest.mark.parametrize("name", ["", "0a", "a-b", "a b", 'a="b",c', "é", "a\n"])
def test_a_label_name_is_checked(name: str) -> None:
    with pytest.raises(UsageError, match="label name"):
        label_name(name)


def test_operators_and_surrogates() -> None:
    assert matcher("pod", "x", "!~") == 'pod!~"x"'
    with pytest.raises(UsageError, match="matcher"):
        matcher("pod", "x", "==")
    with pytest.raises(UsageError, match="surrogate"):
        quote("\ud800")
