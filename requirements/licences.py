"""The licences in an SBOM as a table: `python requirements/licences.py out/sbom.cdx.json` (`make sbom` runs it).

Exit code 1 where a component names none: somebody has to look.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KNOWN = {"protobuf": "BSD-3-Clause"}  # said in their metadata in words that the SBOM's maker does not take over


def licences(component: Mapping[str, Any]) -> list[str]:
    """What a component says of its licence: SPDX expressions, ids and names."""
    found = []
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        said = entry.get("expression") or licence.get("id") or licence.get("name", "")
        if said and "\n" not in said and len(said) < 120:  # some put the whole text there
            found.append(said)
    if not found and component.get("name") in KNOWN:
        found.append(KNOWN[component["name"]])
    return list(dict.fromkeys(found))


def table(components: Iterable[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The table, and the names of components that say nothing."""
    rows, silent = [], []
    for component in sorted(components, key=lambda c: str(c["name"]).lower()):
        said = licences(component)
        rows.append(f"| {component['name']} | {component.get('version', '')} | {'; '.join(said) or 'not said'} |")
        if not said:
            silent.append(str(component["name"]))
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows]) + "\n", silent


def main(path: str) -> int:
    """Print the table."""
    text, silent = table(json.loads(Path(path).read_text())["components"])
    sys.stdout.write(f"# Licences of what the image holds\n\n{text}")
    if silent:
        sys.stderr.write(f"no licence is named by: {', '.join(silent)}\n")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
