"""Families of queries: many services' queries of one shape, as one PromQL whose answer is taken apart again.

Queries that are equal but for the values of some labels become one: selectors match any of the values, aggregations
keep the labels apart. ``sum(up{namespace="a"})`` and ``sum(up{namespace="b"})`` become
``sum by (namespace) (up{namespace=~"a|b"})``. Where pods are known by the way their names are made, the part before the
tail becomes a label of its own first. Each series of the answer is what one of the queries alone would have given.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.prometheus.promql import quote, regex_literal

__all__ = ["Family", "Kin", "Member", "family_of", "read_matchers"]

MATCHERS = "<matchers>"  # the place of label matchers in a template
OWNER = "harmony_target"  # label that takes the part of a pod's name before its tail
MOST_NAMES = 50  # so many names stand in a matcher; more of them take longer to match than they spare

Member = tuple[str, ...]
"""What tells a service apart within its family: the values of `Family.labels`, then the name if there are tails."""

_AGGREGATION = re.compile(r"\b(sum|avg|min|max|count|group)\s*(?:by\s*\(([^()]*)\)\s*)?\(")
_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# What may stand around aggregations (it pairs equal labels, or one series with a number) and inside of them (it makes
# of each series one with the same labels, or pairs equal labels). Anything else may mix services.
_AROUND = frozenset({"or", "histogram_quantile"})
_INSIDE = frozenset({"or", "rate", "increase", "irate", "delta", "deriv"})
# Pods that are scraped by the job of those that have the metric, and have none themselves yet. Services that share a
# job share this, so that a pod may count a little earlier than asked alone.
_JOBS = frozenset({"and", "on", "job"})
_MATCHER = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("[^"\\\n]*"|'[^'\\\n]*'|`[^`]*`)\s*(?:,|$)""", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Kin:
    """How a service stands in its family: of which family it is, and which member."""

    family: Family
    member: Member


@dataclass(frozen=True, slots=True)
class Family:
    """Queries of one shape.

    Attributes:
        promql: the PromQL for all, with a place for label matchers.
        labels: label names by whose values members are told apart.
        common: label matchers that all members share, as text.
        named_by: label whose value is a member's name and a tail; empty when labels alone tell members apart.
        tails: regular expressions (RE2) of the tails; each leaves one name only for any value.
    """

    promql: str
    labels: tuple[str, ...]
    common: str = ""
    named_by: str = ""
    tails: tuple[str, ...] = ()

    def query(self, members: Sequence[Member]) -> str:
        """One PromQL whose answer holds a series for each of ``members`` that has one, and maybe others."""
        matchers = [f"{label}{_any_of({m[i] for m in members})}" for i, label in enumerate(self.labels)]
        if self.named_by:
            tail = f"(?:{'|'.join(self.tails)})"
            names = sorted({m[-1] for m in members})
            stems = f"(?:{'|'.join(map(regex_literal, names))})" if len(names) <= MOST_NAMES else ".+"
            matchers.append(f"{self.named_by}=~{quote(stems + tail)}")
        if self.common:
            matchers.append(self.common)
        return self.promql.replace(MATCHERS, ",".join(matchers))

    def member(self, labels: Mapping[str, str]) -> Member:
        """Whose a series with these labels is."""
        values = tuple(labels.get(name, "") for name in self.labels)
        return (*values, labels.get(OWNER, "")) if self.named_by else values


@functools.lru_cache(1024)
def family_of(
    template: str, labels: tuple[str, ...], common: str = "", named_by: str = "", tails: tuple[str, ...] = ()
) -> Family | None:
    """The family of a template with a place for label matchers; None where its queries cannot be put together."""
    kept = (*labels, OWNER) if named_by else labels
    grouped = _grouped(template, kept, named_by, tails) if kept else None
    return None if grouped is None else Family(grouped, labels, common, named_by, tails)


def read_matchers(text: str) -> tuple[dict[str, str], str] | None:
    """Label matchers as the values of plain equalities by label, sorted, and the text of all others.

    None where they cannot be told apart so: no equality, a label that stands twice, escapes in a text.
    """
    equal: dict[str, str] = {}
    others: list[str] = []
    seen: set[str] = set()
    position, text = 0, text.strip()
    while position < len(text):
        found = _MATCHER.match(text, position)
        if found is None or found[1] in seen or found[1] == "__name__":
            return None
        label, operator, quoted = found.groups()
        seen.add(label)
        if operator == "=" and len(quoted) > 2:
            equal[label] = quoted[1:-1]
        else:
            others.append(f"{label}{operator}{quoted}")
        position = found.end()
    return (dict(sorted(equal.items())), ",".join(sorted(others))) if equal else None


def _any_of(values: Iterable[str]) -> str:
    """Operator and text of a matcher for any of these values."""
    texts = sorted(values)
    return f"={quote(texts[0])}" if len(texts) == 1 else f"=~{quote('|'.join(map(regex_literal, texts)))}"


def _grouped(template: str, labels: tuple[str, ...], named_by: str, tails: tuple[str, ...]) -> str | None:
    """The template with every aggregation by ``labels``; None where it does more than aggregate."""
    out: list[str] = []
    position = 0
    for found in _AGGREGATION.finditer(template):
        if found.start() < position:
            continue  # counted with the one around it
        end = _closing(template, found.end())
        inside = template[found.end() : end]
        between = template[position : found.start()]
        if end < 0 or not _is_plain(between, _AROUND) or MATCHERS in between:
            return None
        if found[1] == "count" and inside.startswith("count by "):  # how many groups there are
            of = _grouped(inside, labels, named_by, tails)
        else:
            of = _named(inside, named_by, tails) if _is_plain(inside, _INSIDE | _JOBS) else None
        if of is None:
            return None
        by = ", ".join([*(name.strip() for name in (found[2] or "").split(",") if name.strip()), *labels])
        out += [between, f"{found[1]} by ({by}) ({of})"]
        position = end + 1
    rest = template[position:]
    return "".join([*out, rest]) if out and _is_plain(rest, _AROUND) and MATCHERS not in rest else None


def _named(inside: str, named_by: str, tails: tuple[str, ...]) -> str:
    """What is aggregated, each series with the name that its tail leaves, once for each tail that fits."""
    if not named_by:
        return inside
    return " or ".join(
        f'label_replace({inside}, "{OWNER}", "$1", "{named_by}", {quote(f"(.+){tail}")})' for tail in tails
    )


def _closing(text: str, position: int) -> int:
    """Where the parenthesis closes that was opened just before ``position``; -1 if nowhere."""
    depth = 1
    for at in range(position, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return -1


def _is_plain(text: str, functions: frozenset[str]) -> bool:
    """Whether nothing but these functions, selectors that are filled in, and arithmetic stands there."""
    bare = re.sub(rf"{_WORD.pattern}\{{{MATCHERS}\}}(\[[0-9a-z]+\])?", "", text)
    bare = re.sub(r"\b[0-9.]+(e[+-]?[0-9]+)?\b", "", bare)
    return all(word in functions for word in _WORD.findall(bare)) and not re.search(r"[{}\[\]\"'`@]", bare)
