"""Writing PromQL from parts: what comes from outside is quoted, so that it stays a value and never becomes a query."""

from __future__ import annotations

import re

from forecasting.errors import UsageError

__all__ = ["label_name", "matcher", "quote", "quote_regex", "regex_literal"]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_NAMED = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_OPERATORS = ("=", "!=", "=~", "!~")
_REGEX = re.compile(r"([.+*?()|\[\]{}^$\\])")


def quote(text: str) -> str:
    r"""``text`` as a PromQL string in double quotes; quotes, backslashes and control characters are escaped.

    Raises `UsageError` for text that is no Unicode text (a lone surrogate).
    """
    return '"' + "".join(_escaped(c) for c in text) + '"'


def quote_regex(text: str) -> str:
    """``text`` as a PromQL string that, as a regular expression (RE2), matches exactly itself."""
    return quote(regex_literal(text))


def regex_literal(text: str) -> str:
    """``text`` as a regular expression (RE2) that matches exactly itself; not quoted."""
    return _REGEX.sub(r"\\\1", text)


def label_name(name: str) -> str:
    """``name`` if it can stand as a label name; `UsageError` otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no label name; expected letters, digits and _, not beginning with a digit")
    return name


def matcher(label: str, value: str, operator: str = "=") -> str:
    """A label matcher such as ``namespace="serving"``; `UsageError` for a bad label name or operator."""
    if operator not in _OPERATORS:
        raise UsageError(f"{operator!r} is no label matcher; expected one of {' '.join(_OPERATORS)}")
    return f"{label_name(label)}{operator}{quote(value)}"


def _escaped(char: str) -> str:
    named = _NAMED.get(char)
    if named is not None:
        return named
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:
        raise UsageError("text for a query holds a lone surrogate (U+D800..U+DFFF); expected valid Unicode")
    return char if code >= 0x20 and code != 0x7F else f"\\x{code:02x}"
