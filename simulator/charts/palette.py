"""One colour, dash and marker per policy, the same in every figure; told apart without colour vision, too.

Figures are drawn in the light theme's colours. In a page each becomes the CSS variable of its role, so that one
picture serves both themes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ROLES", "Style", "policy_styles"]


@dataclass(frozen=True, slots=True)
class Style:
    """How one policy is drawn: `role` names its colour, `colour` is that of the light theme."""

    role: str
    colour: str
    dash: tuple[float, ...]
    marker: str


# role: (light theme, dark theme). Lines have a contrast of at least 3:1 to the page, text of at least 4.5:1.
ROLES: dict[str, tuple[str, str]] = {
    "text": ("#1d2530", "#e6eaf0"),
    "muted": ("#566070", "#a2adbc"),
    "grid": ("#e4e8ee", "#2a323d"),
    "axis": ("#aab3c0", "#566173"),
    "demand": ("#5f6a7a", "#9aa5b5"),
    "missed": ("#cc1f3f", "#ff6b81"),
    "blue": ("#0b5fd0", "#62a5ff"),
    "orange": ("#b65200", "#ff9d4d"),
    "green": ("#00795f", "#35c9a5"),
    "purple": ("#7b4fb0", "#c19cf0"),
    "ink": ("#2f3a48", "#cdd6e1"),
    "pink": ("#b03a7c", "#f58ac6"),
    "olive": ("#7d6a00", "#d6bf3f"),
    "teal": ("#117a9c", "#55c2e6"),
    "brown": ("#85532f", "#d9a27a"),
}

SOLID: tuple[float, ...] = ()
KNOWN: dict[str, tuple[str, tuple[float, ...], str]] = {
    "harmony": ("blue", SOLID, "o"),
    "hpa": ("orange", (5, 2), "s"),
    "reactive": ("green", (2, 1.5), "^"),
    "static": ("purple", (7, 2, 1.5, 2), "D"),
    "oracle": ("ink", (1, 1.2), "*"),
}
SPARE = ("pink", "olive", "teal", "brown")
DASHES: tuple[tuple[float, ...], ...] = (SOLID, (5, 2), (2, 1.5), (7, 2, 1.5, 2))
MARKERS = ("P", "X", "v", "h", "<", ">", "p", "d")


def policy_styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each policy: fixed for the project's own, in order of appearance for others."""
    out: dict[str, Style] = {}
    others = 0
    for name in names:
        if name in KNOWN:
            role, dash, marker = KNOWN[name]
        else:
            role = SPARE[others % len(SPARE)]
            dash = DASHES[(others // len(SPARE) + others) % len(DASHES)]
            marker = MARKERS[others % len(MARKERS)]
            others += 1
        out[name] = Style(role, ROLES[role][0], dash, marker)
    return out
