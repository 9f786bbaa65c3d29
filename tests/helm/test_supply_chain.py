"""What is installed is what was pinned: lists with hashes, made of the pins, that hold all that the extras need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helm.chart import ROOT

FOLDER = ROOT / "requirements"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in PINNED.findall(text)}


def listed(name: str) -> dict[str, str]:
    return pins((FOLDER / f"{name}.txt").read_text())


def needed(requirements: Iterable[str]) -> set[str]:
    """Distributions that these ask for here, and all that those ask for."""
    found: dict[str, set[str]] = {}
    open_ends = [Requirement(text) for text in requirements]
    while open_ends:
        wanted = open_ends.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if name in found and set(wanted.extras) <= found[name]:
            continue
        found.setdefault(name, set()).update(wanted.extras)
        for text in importlib.metadata.requires(name) or ():
            further = Requirement(text)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
            ):
                further.marker = None
                open_ends.append(further)
    return set(found)


@pytest.mark.parametrize("name", ["torch", "base", "controller", "api", "gpu", "build"])
def test_lists_are_of_the_pins_and_every_file_has_a_hash(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    constraints = pins((ROOT / "constraints.txt").read_text())
    for package, version in listed(name).items():
        assert constraints.get(package, version) == version, f"{package}: run `make hashes`"
    blocks = re.split(r"^(?=[A-Za-z0-9])", text.partition("\n")[2], flags=re.MULTILINE)[1:]
    assert len(blocks) == len(listed(name))
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.partition("\n")[0]
    assert "://" not in text, "no address of an index"


def test_lists_hold_all_that_is_needed() -> None:
    base = {**listed("torch"), **listed("base")}
    assert needed(PROJECT["dependencies"]) <= set(base), "run `make hashes`"
    for extra in ("controller", "api"):
        assert needed(PROJECT["optional-dependencies"][extra]) <= {*base, *listed(extra)}, "run `make hashes`"
    assert {*listed("gpu")} & {*base} == set()
    assert "triton" in listed("gpu")


def test_torch_may_be_the_build_for_cpus_too() -> None:
    lock = module("lock")
    (version,) = listed("torch").values()
    for digest in lock.TORCH_CPU[version]:
        assert digest in (FOLDER / "torch.txt").read_text()


def test_licences_are_told_and_missing_ones_named() -> None:
    licences = module("licences")
    text, silent = licences.table(
        [
            {"name": "b", "version": "2", "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "x\ny"}}]},
            {"name": "A", "version": "1", "licenses": [{"expression": "Apache-2.0 OR MIT"}]},
            {"name": "c", "version": "3"},
        ]
    )
    assert text.splitlines()[2:] == ["| A | 1 | Apache-2.0 OR MIT |", "| b | 2 | MIT |", "| c | 3 | not said |"]
    assert silent == ["c"]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"requirements_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    loader: Any = spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    loader.exec_module(made)
    return made
