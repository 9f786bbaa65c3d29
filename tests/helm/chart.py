"""The chart, rendered: plain documents that tests ask questions of."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "CHART",
    "JOURNAL_FOLDER",
    "NAMESPACE",
    "RELEASE",
    "ROOT",
    "Doc",
    "container",
    "documents",
    "environment",
    "notes",
    "of_kind",
    "one",
]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "harmony"
RELEASE = "harmony"
NAMESPACE = "autoscaling"
JOURNAL_FOLDER = "/var/lib/harmony"  # where the chart mounts the journal's volume

Doc = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one

# The engine is a Go runtime inside this process: its idle threads must not compete with what is measured elsewhere.
os.environ.setdefault("GOMAXPROCS", "1")


@cache
def _render(values: str, name: str, namespace: str) -> dict[str, str]:
    from helm_python.chart import Chart  # 244 MB: only when a chart test runs

    with Chart.load(CHART) as chart:
        return chart.render(values=json.loads(values), name=name, namespace=namespace)


def files(values: dict[str, Any] | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Rendered text by template path."""
    return _render(json.dumps(values or {}, sort_keys=True), name, namespace)


def documents(values: dict[str, Any] | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> list[Doc]:
    """Every rendered object, in a copy of the caller's own."""
    texts = [text for path, text in sorted(files(values, name, namespace).items()) if path.endswith(".yaml")]
    return [doc for text in texts for doc in json.loads(_parsed(text))]


@cache
def _parsed(text: str) -> str:
    """The objects of a file as JSON: YAML is slow to read, and most files (the CRD) are the same in every rendering."""
    return json.dumps([doc for doc in yaml.load_all(text, Loader=LOADER) if doc])


def notes(values: dict[str, Any] | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """What the user reads after an install."""
    return next(text for path, text in files(values, name, namespace).items() if path.endswith("NOTES.txt"))


def of_kind(docs: list[Doc], kind: str) -> list[Doc]:
    """The objects of one kind."""
    return [doc for doc in docs if doc["kind"] == kind]


def one(docs: list[Doc], kind: str, suffix: str = "") -> Doc:
    """The only object of a kind (whose name ends so)."""
    (found,) = [doc for doc in of_kind(docs, kind) if doc["metadata"]["name"].endswith(suffix)]
    return found


def container(docs: list[Doc]) -> Doc:
    """The controller's container."""
    (found,) = one(docs, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(spec: Doc, secrets: dict[str, str]) -> dict[str, str]:
    """What the chart tells the program through the container's environment; ``secrets`` are values by secret name."""
    return {
        entry["name"]: entry.get("value") or secrets[entry["valueFrom"]["secretKeyRef"]["name"]]
        for entry in spec["env"]
        if entry["name"].startswith("HARMONY_")
    }
