"""Figures as SVG that lives inside a page: no fixed size, text as text, colours by role, the same in every run."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from simulator.charts.palette import ROLES

__all__ = ["draw", "save_png", "save_svg", "svg"]

_SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "axes.edgecolor": ROLES["axis"][0],
    "axes.labelcolor": ROLES["muted"][0],
    "text.color": ROLES["text"][0],
    "xtick.color": ROLES["axis"][0],
    "ytick.color": ROLES["axis"][0],
    "xtick.labelcolor": ROLES["muted"][0],
    "ytick.labelcolor": ROLES["muted"][0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": ROLES["grid"][0],
    "grid.linewidth": 1.0,
    "ytick.major.size": 0.0,
    "xtick.major.size": 4.0,
}
_VARIABLES = {light: f"var(--{role})" for role, (light, _) in ROLES.items()}
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_SERIES = re.compile(r"series-(\d+)")


def draw(paint: Callable[[], Figure]) -> Figure:
    """Make a figure under the report's settings (matplotlib keeps its settings globally; they are put back)."""
    with matplotlib.rc_context(_SETTINGS):
        return paint()


def save_png(figure: Figure, path: Path, *, scale: float = 2.0) -> None:
    """Write a figure, drawn at 72 units per inch, as a PNG of ``scale`` pixels per unit."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, format="png", dpi=72 * scale, facecolor="white", metadata={"Software": None})


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as an SVG file of its own, on white."""
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": "figure"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text
        figure.savefig(path, format="svg", facecolor="white", metadata=none)


def svg(figure: Figure, key: str, title: str, description: str, css_class: str = "") -> Markup:
    """The figure as an ``<svg>`` element with ``title`` and ``description`` for those who cannot see it.

    ``key`` must be unique in the page (letters and dashes): ids are made from it. Artists with the gid ``series-N``
    become groups with ``data-series="N"``.
    """
    out = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text
        figure.savefig(out, format="svg", metadata=none, transparent=True)
    text = out.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
    head = (
        f'<svg class="{css_class}" viewBox="{box.group(1) if box else "0 0 1 1"}" role="img" '
        f'aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{escape(title)}</title>'
        f'<desc id="{key}-d">{escape(description)}</desc>'
    )
    return Markup(head + _shorten(body) + "</svg>")


def _shorten(body: str) -> str:
    """Drop what a page does not need; only tags are touched, never the text between them."""
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<[^>]*>", _tag, body)
    return re.sub(r">\s+<", "><", body)


def _tag(match: re.Match[str]) -> str:
    """One tag: ids that nothing refers to gone, colours by role, coordinates to a tenth of a unit."""
    tag = re.sub(r' id="([^"]+)"', _identity, match.group())
    tag = re.sub(r" font-family: [^;\"]+;", "", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m.group(), m.group()), tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
    tag = re.sub(r' (d|x|y|width|height)="[^"]*"', lambda m: _NUMBER.sub(_rounded, m.group()), tag)
    return re.sub(r' d="([^"]*)"', lambda m: ' d="' + re.sub(r"\s*\n?L ", " ", m.group(1)).strip() + '"', tag)


def _identity(match: re.Match[str]) -> str:
    name = match.group(1)
    if re.fullmatch(r"[mpC][0-9a-f]{8,}.*", name):
        return match.group()
    series = _SERIES.fullmatch(name)
    return f' data-series="{series.group(1)}"' if series else ""


def _rounded(match: re.Match[str]) -> str:
    short = f"{float(match.group()):.1f}"
    return short[:-2] if short.endswith(".0") else short
