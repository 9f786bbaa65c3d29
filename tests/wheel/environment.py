"""The wheel, and fresh environments with it: what the chosen extras bring is there, what the others bring is not.

A fresh environment is a real one with nothing in it; the wheel is unpacked into it as pip does. What the wheel asks for
is not fetched again (torch alone is hundreds of megabytes): the distributions that the base and the chosen extras need,
and those that these need, are linked from the environment that runs the tests. Nothing else can be imported there.
With HARMONY_WHEEL_PIP=1 in the environment pip fetches and installs them instead, at the pinned versions.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["PROJECT", "Fresh", "build_wheel", "fresh"]

ROOT = Path(__file__).parents[2]
PROJECT = "harmony-autoscaler"
PATIENCE_S = 300.0


class Fresh:
    """An environment, and what `harmony` says in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of it in its own folder, with nothing of ours on its path or in its settings."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        given = {**kept, "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            command, cwd=self.folder, env=given, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def harmony(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """What the installed script does."""
        return self.run(self.folder / "bin" / "harmony", *words, env=env)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, as `pip wheel` would."""
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def fresh(folder: Path, wheel: Path, extras: Collection[str] = ()) -> Fresh:
    """An environment with the wheel and everything that it and ``extras`` ask for."""
    venv.create(folder, with_pip=False, symlinks=True)
    made = Fresh(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(made.python), "install"]
    whole = bool(os.environ.get("HARMONY_WHEEL_PIP"))
    what = f"{wheel}[{','.join(extras)}]" if whole and extras else str(wheel)
    how = ["--constraint", str(ROOT / "constraints.txt")] if whole else ["--no-index", "--no-deps"]
    done = subprocess.run([*install, *how, "--quiet", what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if whole:
        return made
    (metadata,) = site.glob("harmony_autoscaler-*.dist-info")
    asked = importlib.metadata.Distribution.at(metadata).requires or []
    link(site, closure(asked, extras))
    return made


def closure(asked: Iterable[str], extras: Iterable[str]) -> set[str]:
    """Names of the distributions that ``asked`` with ``extras`` need, directly or through others."""
    found: set[str] = set()
    waiting = [(Requirement(text), frozenset(extras)) for text in asked]
    while waiting:
        need, wanted = waiting.pop()
        if need.marker is not None and not any(need.marker.evaluate({"extra": e}) for e in (wanted or {""})):
            continue
        name = canonicalize_name(need.name)
        if name in found and not need.extras:
            continue
        found.add(name)
        own = importlib.metadata.distribution(name).requires or []
        waiting += [(Requirement(text), frozenset(need.extras)) for text in own]
    return found


def link(site: Path, names: set[str]) -> None:
    """Link the files of these distributions, whole folders where no other distribution has a part in them."""
    owners: dict[str, set[str]] = defaultdict(set)
    for dist in importlib.metadata.distributions():
        for top in tops(dist):
            owners[top].add(canonicalize_name(dist.name))
    for name in names:
        dist = importlib.metadata.distribution(name)
        for top in tops(dist):
            if owners[top] <= names:
                place(site / top, Path(str(dist.locate_file(top))))
                continue
            for file in dist.files or ():  # a folder shared with what is not installed here
                if file.parts[0] == top:
                    place(site / file, Path(str(dist.locate_file(file))))


def tops(dist: importlib.metadata.Distribution) -> Iterator[str]:
    """First parts of the paths of a distribution's files, scripts left out."""
    yield from {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}


def place(link: Path, target: Path) -> None:
    """A link at ``link``, once."""
    if not link.exists() and target.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
