"""The table of Helm values, from `values.yaml` (defaults) and `values.schema.json` (types and descriptions)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tables import code, table

CHART = Path(__file__).parents[2] / "helm" / "harmony"


def values() -> Iterator[tuple[str, str, Any, str]]:
    """(name, type, default, description) of every value that the chart describes."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def walk(node: dict[str, Any], value: Any, name: str) -> Iterator[tuple[str, str, Any, str]]:
        if "description" in node:
            yield name, _type(node), value, node["description"]
            return
        for key, inner in node.get("properties", {}).items():
            has = isinstance(value, dict) and key in value
            yield from walk(inner, value[key] if has else None, f"{name}.{key}" if name else key)

    yield from walk(schema, defaults, "")


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " or ".join(code(str(v)) for v in node["enum"])
    kinds = node.get("type", "any")
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)


def values_page() -> str:
    parts, section, rows = [], "", []

    def close() -> None:
        if rows:
            parts.append(f"## `{section}`\n\n" + table(("Value", "Type", "Default", "Meaning"), rows))

    for name, kind, default, text in values():
        if name.partition(".")[0] != section:
            close()
            section, rows = name.partition(".")[0], []
        rows.append((code(name), kind, code(json.dumps(default)), text))
    close()
    return "\n".join(parts)
