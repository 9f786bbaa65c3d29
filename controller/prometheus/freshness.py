"""Keeping Prometheus from showing an old sample as a present one.

A selector such as ``queue`` gives, for five minutes, the last sample it has: after a scrape has ended a gauge looks
alive and a counter looks idle. `within` makes a query say nothing where nothing newer than a given age was scraped:
each selector ``x`` becomes ``(x and present_over_time(x[age]))``. Series that Prometheus knows to have ended go at
once, as before.
"""

from __future__ import annotations

import re

__all__ = ["selectors", "within"]

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
      | (?P<number>[0-9.][0-9a-zA-Z_.]*)
      | (?P<sign>=~|!~|[=!<>]=|.)""",
    re.VERBOSE | re.DOTALL,
)
_LISTS = frozenset(["by", "without", "on", "ignoring", "group_left", "group_right"])  # a list of label names may follow
_WORDS = _LISTS | {
    "and", "or", "unless", "atan2", "bool", "offset", "inf", "nan", "sum", "avg", "min", "max", "count", "stddev",
    "stdvar", "topk", "bottomk", "quantile", "count_values", "group", "limitk", "limit_ratio",
}  # fmt: skip

Token = tuple[str, str]


def within(promql: str, age_s: float) -> str:
    """``promql`` with every instant selector limited to samples of the last ``age_s`` seconds.

    Selectors of ranges and those in ``timestamp()`` stay as they are, and so does text that cannot be taken apart.
    """
    tokens = _tokens(promql)
    out: list[str] = []
    position = 0
    while position < len(tokens):
        end = _selector_end(tokens, position)
        if end is None:
            skip = _skipped(tokens, position)
            out.extend(text for _, text in tokens[position:skip])
            position = skip
            continue
        selector = _text(tokens, position, end)
        modified = _modifiers_end(tokens, end)
        follows = _next(tokens, end)
        if (follows < len(tokens) and tokens[follows][1] == "[") or _inside_timestamp(tokens, position):
            out.append(selector)
            position = end
        else:
            modifiers = _text(tokens, end, modified)
            window = f"[{max(1, round(age_s * 1000))}ms]"
            out.append(f"({selector}{modifiers} and present_over_time({selector}{window}{modifiers}))")
            position = modified
    return "".join(out)


def selectors(promql: str) -> list[str]:
    """The selectors that stand in ``promql``, without ranges and modifiers."""
    tokens = _tokens(promql)
    out: list[str] = []
    position = 0
    while position < len(tokens):
        end = _selector_end(tokens, position)
        if end is None:
            position = _skipped(tokens, position)
        else:
            out.append(_text(tokens, position, end))
            position = end
    return list(dict.fromkeys(out))


def _tokens(promql: str) -> list[Token]:
    return [(str(m.lastgroup), m.group()) for m in _TOKEN.finditer(promql)]


def _text(tokens: list[Token], start: int, end: int) -> str:
    return "".join(" " if text.startswith("#") else text for _, text in tokens[start:end])


def _next(tokens: list[Token], position: int) -> int:
    """The first token from ``position`` on that is no space or comment."""
    while position < len(tokens) and tokens[position][0] == "space":
        position += 1
    return position


def _closing(tokens: list[Token], position: int, mark: str) -> int | None:
    """One past the first ``mark`` from ``position`` on; None if there is none."""
    for i in range(position, len(tokens)):
        if tokens[i] == ("sign", mark):
            return i + 1
    return None


def _selector_end(tokens: list[Token], position: int) -> int | None:
    """One past the selector that begins at ``position``: a name, matchers in braces, or both; None if none does."""
    if position >= len(tokens):
        return None
    kind, text = tokens[position]
    if (kind, text) == ("sign", "{"):
        return _closing(tokens, position, "}")
    follows = _next(tokens, position + 1)
    sign = tokens[follows][1] if follows < len(tokens) else ""
    if kind != "word" or text.lower() in _WORDS or sign == "(":
        return None
    return _closing(tokens, follows, "}") if sign == "{" else position + 1


def _skipped(tokens: list[Token], position: int) -> int:
    """One past the token at ``position``: past the whole of a range, and past label names in parentheses."""
    if tokens[position] == ("sign", "["):
        return _closing(tokens, position, "]") or len(tokens)
    if tokens[position][0] == "word" and tokens[position][1].lower() in _LISTS:
        opening = _next(tokens, position + 1)
        if opening < len(tokens) and tokens[opening][1] == "(":
            return _closing(tokens, opening, ")") or len(tokens)
    return position + 1


def _modifiers_end(tokens: list[Token], position: int) -> int:
    """One past the ``offset 5m`` and ``@ time`` that follow a selector."""
    while True:
        at = _next(tokens, position)
        if at >= len(tokens) or tokens[at][1].lower() not in ("offset", "@"):
            return position
        at = _next(tokens, at + 1)
        if at < len(tokens) and tokens[at][1] in "+-":
            at = _next(tokens, at + 1)
        if at < len(tokens) and tokens[at][0] == "word":  # start() or end()
            at = (_closing(tokens, at, ")") or len(tokens)) - 1
        position = min(at + 1, len(tokens))


def _inside_timestamp(tokens: list[Token], position: int) -> bool:
    before = [t for t in tokens[:position] if t[0] != "space"]
    return len(before) >= 2 and before[-1][1] == "(" and before[-2][1].lower() == "timestamp"
