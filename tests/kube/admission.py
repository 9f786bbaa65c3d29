"""What happens to an object before it is stored: decoding, defaults, pruning, validation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from . import builtins, crds
from .errors import Cause, UndecodableError, bad_request, invalid
from .kinds import Kind
from .rules import ABSENT
from .schema import fill_defaults, findings, prune
from .storage import Json

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com')"
)


def decode(kind: Kind | None, raw: bytes) -> Any:
    """The body as JSON (or YAML); with `kind`, as an object of that kind."""
    try:
        body = json.loads(raw)
    except ValueError:
        try:
            body = yaml.safe_load(raw)
        except yaml.YAMLError as failure:
            raise bad_request("the object provided is unrecognized (must be of type JSON or YAML)") from failure
    if kind is None:
        if not isinstance(body, (dict, list)):
            raise bad_request("the body must be an object or a list")
        return body
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a {kind.kind} object")
    if kind.custom:
        for name, label in (("kind", "Kind"), ("apiVersion", "apiVersion")):
            if not body.get(name):
                raise bad_request(f"Object '{label}' is missing in '{raw.decode(errors='replace')[:80]}'")
    if (
        body.setdefault("kind", kind.kind) != kind.kind
        or body.setdefault("apiVersion", kind.api_version) != kind.api_version
    ):
        sent = f"{body.get('apiVersion')}, Kind={body.get('kind')}"
        raise bad_request(f"the object provided ({sent}) does not match {kind.api_version}, Kind={kind.kind}")
    if not isinstance(body.setdefault("metadata", {}), dict):
        raise bad_request("metadata must be an object")
    return body


class Admission:
    """Defaults, prunes and checks objects in place."""

    def normalise(self, kind: Kind, obj: Json) -> list[str]:
        """Prunes and defaults a custom object in place; returns the paths that were unknown."""
        if kind.schema is None:
            return []
        dropped = prune(kind.schema, obj)
        fill_defaults(kind.schema, obj)
        return dropped

    def admit(self, kind: Kind, obj: Json, old: Json | None, query: Mapping[str, str]) -> list[str]:
        """Makes `obj` fit to be stored; returns warnings.

        Raises:
            ApiError: 400 for a body that cannot be read as the kind, 422 for one that breaks its rules.
        """
        warnings: list[str] = []
        _check_strings(kind, obj["metadata"])
        if kind.custom:
            if old is None and kind.has_status:
                obj.pop("status", None)
            dropped = self.normalise(kind, obj)
            if dropped and query.get("fieldValidation") == "Strict":
                texts = ", ".join(f'unknown field "{path}"' for path in dropped)
                raise bad_request(
                    f"{kind.kind} in version {kind.version!r} cannot be handled: strict decoding error: {texts}"
                )
            if query.get("fieldValidation") != "Ignore":
                warnings = [f'unknown field "{path}"' for path in dropped]
        elif kind.plural == "customresourcedefinitions":
            crds.fill(obj)
        else:
            builtins.fill(kind, obj, creating=old is None)
        causes = list(self._findings(kind, obj, old))
        if causes:
            raise invalid(kind.kind, kind.group, obj["metadata"].get("name", ""), causes)
        return warnings

    def _findings(self, kind: Kind, obj: Json, old: Json | None) -> Iterator[Cause]:
        if old is None:
            yield from _check_name(kind, obj["metadata"])
        if old is None or obj["metadata"] != old["metadata"]:
            yield from _check_labels(obj["metadata"])
        if kind.custom and kind.schema is not None:
            yield from findings(kind.schema, obj, ABSENT if old is None else old)
        elif kind.plural == "customresourcedefinitions":
            if old is None or obj["spec"] != old["spec"]:
                yield from crds.check(obj)
        elif not kind.custom:
            yield from builtins.check(kind, obj)


def _check_strings(kind: Kind, metadata: Json) -> None:
    for name in ("labels", "annotations"):
        values = metadata.get(name)
        if values is None:
            metadata.pop(name, None)
            continue
        if not isinstance(values, dict):
            raise bad_request(f"metadata.{name} must be an object of strings")
        for key, value in values.items():
            if not isinstance(value, str):
                text = f"cannot unmarshal {type(value).__name__} into ObjectMeta.metadata.{name} of type string"
                raise UndecodableError(
                    f'{kind.kind} in version "{kind.version}" cannot be handled: json: {text} ({key})'
                )


def _check_name(kind: Kind, metadata: Json) -> Iterator[Cause]:
    name = metadata.get("name")
    if not name:
        yield Cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")
    elif kind.group == "rbac.authorization.k8s.io":
        return  # path segments: colons and capitals are allowed
    elif len(name) > 253 or not _NAME.match(name):
        yield Cause("FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": {_SUBDOMAIN}')


def _check_labels(metadata: Json) -> Iterator[Cause]:
    for value in (metadata.get("labels") or {}).values():
        if len(value) > 63 or not _LABEL.match(value):
            text = (
                f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters'
            )
            yield Cause("FieldValueInvalid", "metadata.labels", text)
