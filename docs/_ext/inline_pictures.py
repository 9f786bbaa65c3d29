"""Puts the SVG pictures of `_static/pictures` into the page itself, so that they follow its light or dark theme.

A picture is written as usual, ``![what it shows](../_static/pictures/NAME.svg "caption")``; elsewhere than on the site
it is an ordinary image.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class InlinePictures(SphinxPostTransform):
    """Replaces image nodes of our pictures by raw HTML (HTML builders only)."""

    default_priority = 5  # before images are copied
    formats = ("html",)

    def run(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"]
            if "_static/pictures/" not in uri or not uri.endswith(".svg"):
                continue
            figure = nodes.raw("", _figure(Path(self.app.srcdir) / uri, image), format="html")
            place = image.parent if len(image.parent) == 1 and isinstance(image.parent, nodes.paragraph) else image
            place.replace_self(figure)


def _figure(path: Path, image: nodes.image) -> str:
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style>:root.*?</style>", "", svg)  # its own colours, for when it stands alone
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # names inside are per file, not per page
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{path.stem}-", svg)
    label = html.escape(image.get("alt", ""), quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    caption = image.get("title", "")
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="picture" tabindex="0">{svg}{below}</figure>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(InlinePictures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
