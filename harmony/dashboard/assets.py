"""Files that browsers load: our own few, and plotly's bundle as its Python package carries it."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from forecasting.errors import UsageError

__all__ = ["Asset", "Assets"]

HERE = Path(__file__).parent / "static"
MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PLOTLY = "plotly.min.js"
STYLES = re.compile(rb"textContent='([^'\\]*)',document\.head\.appendChild")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file with its compressed form, a digest that names this very content, and its integrity attribute."""

    name: str
    media_type: str
    body: bytes
    gzipped: bytes
    digest: str
    integrity: str

    @classmethod
    def of(cls, path: Path) -> Asset:
        """Read a file; its compressed form is made once."""
        body = path.read_bytes()
        integrity = "sha384-" + base64.b64encode(hashlib.sha384(body).digest()).decode()
        digest = hashlib.sha256(body).hexdigest()[:12]
        return cls(path.name, MEDIA[path.suffix], body, gzip.compress(body, 6, mtime=0), digest, integrity)

    @property
    def url(self) -> str:
        """Where it is served; a new content has a new address, so it may be kept for ever."""
        return f"/static/{self.digest}/{self.name}"


class Assets:
    """The assets by name; each is read when it is first asked for."""

    def __init__(self) -> None:
        self._paths = {p.name: p for p in sorted(HERE.iterdir()) if p.suffix in MEDIA}
        self._paths[PLOTLY] = _plotly()
        self._get = functools.lru_cache(maxsize=None)(Asset.of)

    def style_hashes(self) -> tuple[str, ...]:
        """Hashes of the style elements that plotly.js makes, for the content security policy.

        One is empty and filled by script; those of its map library come as they are. Found in the very bundle that is
        served, so that they follow its version.
        """
        sheets = [b"", *STYLES.findall(self[PLOTLY].body)]
        return tuple(f"'sha256-{base64.b64encode(hashlib.sha256(s).digest()).decode()}'" for s in sheets)

    def get(self, name: str) -> Asset | None:
        """The asset of that name, or None."""
        path = self._paths.get(name)
        return None if path is None else self._get(path)

    def __getitem__(self, name: str) -> Asset:
        """The asset that must be there (templates name it)."""
        return self._get(self._paths[name])


def _plotly() -> Path:
    """Plotly's browser bundle in its installed Python package; the package is not imported."""
    spec = importlib.util.find_spec("plotly")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        path = Path(folder) / "package_data" / PLOTLY
        if path.is_file():
            return path
    raise UsageError("the dashboard's charts need plotly: pip install 'harmony-autoscaler[api]'")
