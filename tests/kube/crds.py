"""CustomResourceDefinitions -> kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from celpy.celparser import CELParseError

from .errors import Cause
from .kinds import Kind, ScalePaths
from .rules import compiled
from .schema import validate

Json = dict[str, Any]
_FORBIDDEN = (
    "$ref",
    "definitions",
    "dependencies",
    "patternProperties",
    "deprecated",
    "discriminator",
    "readOnly",
    "writeOnly",
    "xml",
    "id",
    "uniqueItems",
)


def _dotted(path: str) -> str:
    return path.lstrip(".")


def kinds_of(crd: Json) -> Iterator[Kind]:
    """One Kind per served version."""
    spec = crd["spec"]
    names = spec["names"]
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        scale = subresources.get("scale")
        yield Kind(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            has_status="status" in subresources,
            scale=None
            if scale is None
            else ScalePaths(
                _dotted(scale["specReplicasPath"]),
                _dotted(scale["statusReplicasPath"]),
                _dotted(scale.get("labelSelectorPath", "")),
            ),
            generation=True,
            needs_version=True,
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            custom=True,
            schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            selectable=frozenset(_dotted(field["jsonPath"]) for field in version.get("selectableFields") or ()),
        )


def fill(crd: Json) -> None:
    """The names that the server completes."""
    names = crd.setdefault("spec", {}).setdefault("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    crd["spec"].setdefault("conversion", {"strategy": "None"})


def established(crd: Json, now: str) -> Json:
    """The status of a definition that is served."""
    versions = [version["name"] for version in crd["spec"]["versions"] if version.get("storage")]
    texts = {
        "NamesAccepted": ("NoConflicts", "no conflicts found"),
        "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
    }
    return {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
            for kind, (reason, message) in texts.items()
        ],
        "acceptedNames": dict(crd["spec"]["names"]),
        "storedVersions": versions,
    }


def _required(where: str) -> Cause:
    return Cause("FieldValueRequired", where, "Required value")


def check(crd: Json) -> Iterator[Cause]:
    """The findings on a definition: names, versions, structural schema, defaults, rules that do not parse."""
    spec, name = crd["spec"], crd["metadata"].get("name", "")
    names, versions = spec["names"], spec.get("versions") or []
    for key in ("plural", "kind"):
        if not names.get(key):
            yield _required(f"spec.names.{key}")
    if name != f"{names.get('plural')}.{spec.get('group')}":
        text = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        yield Cause("FieldValueInvalid", "metadata.name", text)
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        text = f'Unsupported value: "{spec.get("scope", "")}": supported values: "Cluster", "Namespaced"'
        yield Cause("FieldValueNotSupported", "spec.scope", text)
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "Invalid value: must have exactly one version marked as storage version"
        yield Cause("FieldValueInvalid", "spec.versions", text)
    for index, version in enumerate(versions):
        where = f"spec.versions[{index}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not isinstance(schema, dict):
            yield Cause("FieldValueRequired", where, "Required value: schemas are required")
            continue
        yield from _check_schema(schema, where, root=True)


def _check_schema(schema: Json, where: str, root: bool = False, valued: bool = False) -> Iterator[Cause]:
    """`valued`: inside anyOf and the like, where only values may be restricted."""
    loose = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not (loose and not root) and not valued:
        text = "Required value: must not be empty for specified " + ("object" if root else "fields")
        yield Cause("FieldValueRequired", f"{where}.type", text)
    for word in _FORBIDDEN:
        if word in schema:
            yield Cause("FieldValueForbidden", f"{where}.{word}", "Forbidden: must not be specified")
    if schema.get("additionalProperties") and schema.get("properties"):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause("FieldValueForbidden", f"{where}.additionalProperties", text)
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield Cause("FieldValueRequired", f"{where}.items", "Required value: must be specified")
    if "pattern" in schema:
        re.compile(schema["pattern"])
    if "default" in schema:
        for cause in validate(schema, schema["default"]):
            yield Cause(cause.reason, f"{where}.default", cause.message)
    yield from _check_rules(schema, where)
    for word in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(schema.get(word) or ()):
            yield from _check_schema(part, f"{where}.{word}[{index}]", valued=True)
    for key, below in (schema.get("properties") or {}).items():
        yield from _check_schema(below, f"{where}.properties[{key}]", valued=valued)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from _check_schema(schema[word], f"{where}.{word}", valued=valued)


def _check_rules(schema: Json, where: str) -> Iterator[Cause]:
    for index, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        for word in ("rule", "messageExpression"):
            if word in rule:
                try:
                    compiled(rule[word])
                except CELParseError as failure:
                    path = f"{where}.x-kubernetes-validations[{index}].{word}"
                    yield Cause("FieldValueInvalid", path, f"Invalid value: compilation failed: {failure.args[0]}")
