"""Create, read, update, patch and delete: the semantics of the API server over the storage."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import crds
from .admission import Admission, decode
from .builtins import convert
from .errors import (
    Cause,
    UndecodableError,
    already_exists,
    bad_request,
    conflict,
    disputed_fields,
    expired,
    invalid,
    not_found,
    too_large,
    unsupported_media,
)
from .kinds import Kind, Registry
from .owners import Owners
from .patches import APPLY, JSON_PATCH, MERGE, STRATEGIC, apply_patch, let_go
from .quota import check_quota
from .scale import scale_of, wanted_replicas, with_replicas
from .selectors import Predicate, field_selector, label_selector
from .storage import Item, Json, Key, Storage, dumps

Query = Mapping[str, str]
_KEPT = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "name",
    "namespace",
)


@dataclass(slots=True)
class Answer:
    """What goes back to the client."""

    code: int
    body: bytes
    warnings: list[str] = field(default_factory=list)


def selection(kind: Kind, namespace: str, query: Query) -> Predicate:
    """Namespace, label and field selector of a list or watch as one predicate over stored objects."""
    labels = label_selector(query.get("labelSelector", ""))
    fields = field_selector(query.get("fieldSelector", ""), kind.selectable)

    def wanted(obj: Json) -> bool:
        if namespace and obj["metadata"].get("namespace") != namespace:
            return False
        return (labels is None or labels(obj)) and (fields is None or fields(convert(obj, kind)))

    return wanted


class Operations:
    """One method per verb; each answers or raises ApiError."""

    def __init__(self, storage: Storage, registry: Registry, timestamp: Callable[[], str]) -> None:
        self._storage = storage
        self._registry = registry
        self._timestamp = timestamp
        self._admission = Admission()
        self._owners = Owners()

    # ---- reading

    def get(self, kind: Kind, namespace: str, name: str, subresource: str) -> Answer:
        item = self._existing(kind, (namespace, name))
        if subresource == "scale":
            return Answer(200, dumps(scale_of(kind, item.obj)))
        return Answer(200, item.form(kind, convert))

    def list_all(self, kind: Kind, namespace: str, query: Query) -> Answer:
        storage, table = self._storage, self._storage.table(kind.storage)
        version, after = storage.version, None
        if token := query.get("continue"):
            version, after = self._position(token, table.floor)
        elif (asked := query.get("resourceVersion", "")) not in ("", "0"):
            self._check_version(asked, query, table.floor)
        wanted = selection(kind, namespace, query)
        keys = sorted(key for key in table.items if after is None or key > after)
        found = [key for key in keys if wanted(table.items[key].obj)]
        metadata: Json = {"resourceVersion": str(version)}
        limit = int(query.get("limit") or 0)
        if limit and len(found) > limit:
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps([version, *found[limit - 1]]).encode()).decode()
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        head = dumps({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata})
        items = b",".join(table.items[key].form(kind, convert, bare=not kind.custom) for key in found)
        return Answer(200, head[:-1] + b',"items":[' + items + b"]}")

    def _position(self, token: str, floor: int) -> tuple[int, Key]:
        try:
            version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as failure:
            raise bad_request("continue key is not valid") from failure
        if version < floor:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
        return version, (namespace, name)

    def _check_version(self, asked: str, query: Query, floor: int) -> None:
        if not asked.isdigit():
            raise bad_request(f'Invalid value: "{asked}": resourceVersion: strconv.ParseUint: invalid syntax')
        if int(asked) > self._storage.version:
            raise too_large(int(asked), self._storage.version)
        if query.get("resourceVersionMatch") == "Exact" and int(asked) < floor:
            raise expired(f"The resourceVersion for the provided list is too old: {asked} ({floor})")

    def _existing(self, kind: Kind, key: Key) -> Item:
        item = self._storage.get(kind.storage, key)
        if item is None:
            raise not_found(kind.plural, kind.group, key[1])
        return item

    # ---- creating

    def create(self, kind: Kind, namespace: str, raw: bytes, query: Query) -> Answer:
        obj = decode(kind, raw)
        self._place(kind, namespace, obj)
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        return self._create(kind, namespace, obj, query)

    def _place(self, kind: Kind, namespace: str, obj: Json) -> None:
        metadata = obj["metadata"]
        if not kind.namespaced:
            metadata.pop("namespace", None)
            return
        if metadata.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if self._storage.get("/namespaces", ("", namespace)) is None:
            raise not_found("namespaces", "", namespace)

    def _create(self, kind: Kind, namespace: str, obj: Json, query: Query) -> Answer:
        metadata = obj["metadata"]
        for name in ("resourceVersion", "uid", "generation", "selfLink", "managedFields", "deletionTimestamp"):
            metadata.pop(name, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self._timestamp()
        if kind.generation:
            metadata["generation"] = 1
        warnings = self._admission.admit(kind, obj, None, query)
        key = (namespace, metadata["name"])
        if self._storage.get(kind.storage, key) is not None:
            raise already_exists(kind.plural, kind.group, key[1])
        if kind.storage == "/pods":
            check_quota(self._storage, namespace, obj)
        if query.get("dryRun"):
            return Answer(201, dumps(obj), warnings)
        if kind.plural == "customresourcedefinitions":
            obj["status"] = crds.established(obj, self._timestamp())
        item = self._storage.put(kind.storage, key, obj)
        if kind.plural == "customresourcedefinitions":
            self._register(obj)
        return Answer(201, item.form(kind, convert), warnings)

    # ---- changing

    def update(self, kind: Kind, namespace: str, name: str, subresource: str, raw: bytes, query: Query) -> Answer:
        item = self._existing(kind, (namespace, name))
        if subresource == "scale":
            scale = decode(None, raw)
            self._check_precondition(kind, name, item, scale.get("metadata") or {})
            new = with_replicas(kind, json.loads(item.form(kind, convert)), wanted_replicas(scale, name))
            return self._store(kind, item, new, "scale", query)
        new = decode(kind, raw)
        metadata = new["metadata"]
        if metadata.get("name") != name:
            text = f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL ({name})"
            raise bad_request(text)
        if metadata.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the object does not match the namespace on the URL")
        if kind.needs_version and not metadata.get("resourceVersion"):
            text = "Invalid value: 0: must be specified for an update"
            found = Cause("FieldValueInvalid", "metadata.resourceVersion", text)
            raise invalid(kind.plural if kind.custom else kind.kind, kind.group, name, [found])
        self._check_precondition(kind, name, item, metadata)
        return self._store(kind, item, new, subresource, query)

    def patch(
        self, kind: Kind, namespace: str, name: str, subresource: str, raw: bytes, query: Query, content_type: str
    ) -> Answer:
        accepted = [JSON_PATCH, MERGE, *([] if kind.custom and subresource != "scale" else [STRATEGIC]), *APPLY]
        if content_type not in accepted:
            raise unsupported_media(accepted)
        try:
            return self._patch(kind, (namespace, name), subresource, decode(None, raw), query, content_type)
        except UndecodableError as failure:
            raise failure.of_patch() from failure

    def _patch(self, kind: Kind, key: Key, subresource: str, body: Any, query: Query, content_type: str) -> Answer:
        namespace, name = key
        item = self._storage.get(kind.storage, key)
        if content_type in APPLY:
            self._check_apply(kind, name, body, query)
            if item is None and not subresource:
                body.setdefault("metadata", {})["name"] = name
                self._place(kind, namespace, body)
                applied = copy.deepcopy(body)
                made = self._create(kind, namespace, body, query)
                self._owners.apply(self._managed(kind, key), query["fieldManager"], applied)
                return made
        item = self._existing(kind, key)
        metadata = body.get("metadata") if isinstance(body, dict) else None
        if isinstance(metadata, dict):
            self._check_precondition(kind, name, item, metadata)
        if subresource == "scale":
            scale = apply_patch(content_type, scale_of(kind, item.obj), body, kind.custom)
            self._check_precondition(kind, name, item, scale["metadata"])
            new = with_replicas(kind, json.loads(item.form(kind, convert)), wanted_replicas(scale, name))
        else:
            live = json.loads(item.form(kind, convert))
            if content_type in APPLY and not subresource:
                managed, manager = self._managed(kind, key), query["fieldManager"]
                disputed = self._owners.disputed(managed, manager, live, body)
                if disputed and query.get("force") != "true":
                    raise disputed_fields(disputed)
                new = apply_patch(content_type, live, body, kind.custom)
                let_go(new, self._owners.alone(managed, manager), body)
                stored = self._store(kind, item, new, subresource, query)
                if not query.get("dryRun"):
                    self._owners.apply(managed, manager, body)
                return stored
            new = apply_patch(content_type, live, body, kind.custom)
            if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
                raise bad_request("the patched object has no metadata")
            self._check_precondition(kind, name, item, new["metadata"])
        return self._store(kind, item, new, subresource, query)

    def _managed(self, kind: Kind, key: Key) -> tuple[str, str]:
        """One object, for its owners; it has none before it is there."""
        item = self._storage.get(kind.storage, key)
        return kind.storage, "" if item is None else item.obj["metadata"]["uid"]

    @staticmethod
    def _check_apply(kind: Kind, name: str, body: Any, query: Query) -> None:
        if not query.get("fieldManager"):
            found = Cause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch")
            raise invalid("PatchOptions", "meta.k8s.io", "", [found])
        if not isinstance(body, dict) or not body.get("apiVersion") or not body.get("kind"):
            raise bad_request(f"apply of {name}: the body needs apiVersion and kind")
        if body["kind"] not in (kind.kind, "Scale"):
            raise bad_request(f"apply of {name}: {body['kind']} sent to {kind.plural}")

    @staticmethod
    def _check_precondition(kind: Kind, name: str, item: Item, metadata: Json) -> None:
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        if version and str(version) != str(item.version):
            raise conflict(kind.plural, kind.group, name)
        actual = item.obj["metadata"]["uid"]
        if uid and uid != actual:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
            raise conflict(kind.plural, kind.group, name, why)

    def _store(self, kind: Kind, item: Item, new: Json, subresource: str, query: Query) -> Answer:
        """Writes what the subresource lets through; nothing changed = no new version, no event."""
        old = convert(item.obj, kind)
        new = _let_through(kind, old, new, subresource)
        metadata, before = new["metadata"], old["metadata"]
        for name in _KEPT:
            if name in before:
                metadata[name] = before[name]
            else:
                metadata.pop(name, None)
        metadata.pop("managedFields", None)
        metadata["resourceVersion"] = before["resourceVersion"]
        new["apiVersion"], new["kind"] = kind.api_version, kind.kind
        warnings = self._admission.admit(kind, new, old, query)
        if new == old:
            return self._answer(kind, item, subresource, warnings)
        if kind.generation and _wish(kind, new) != _wish(kind, old):
            metadata["generation"] = before.get("generation", 0) + 1
        if query.get("dryRun"):
            return Answer(200, dumps(scale_of(kind, new) if subresource == "scale" else new), warnings)
        key = (before.get("namespace", ""), before["name"])
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._answer(kind, self._remove(kind, key), subresource, warnings)
        item = self._storage.put(kind.storage, key, new)
        self._owners.update(self._managed(kind, key), query.get("fieldManager") or "an update", old, new)
        if kind.plural == "customresourcedefinitions":
            self._register(new)
        return self._answer(kind, item, subresource, warnings)

    @staticmethod
    def _answer(kind: Kind, item: Item, subresource: str, warnings: list[str]) -> Answer:
        body = dumps(scale_of(kind, item.obj)) if subresource == "scale" else item.form(kind, convert)
        return Answer(200, body, warnings)

    # ---- deleting

    def delete(self, kind: Kind, namespace: str, name: str, raw: bytes, query: Query) -> Answer:
        options = decode(None, raw) if raw else {}
        key = (namespace, name)
        item = self._existing(kind, key)
        self._check_precondition(kind, name, item, options.get("preconditions") or {})
        metadata = item.obj["metadata"]
        orphan = (options.get("propagationPolicy") or query.get("propagationPolicy")) == "Orphan"
        if query.get("dryRun") or options.get("dryRun"):
            return self._deleted(kind, item)
        if metadata.get("finalizers"):
            return Answer(200, self._mark_deleted(kind, key, item).form(kind, convert))
        return self._deleted(kind, self._remove(kind, key, orphan))

    def delete_all(self, kind: Kind, namespace: str, raw: bytes, query: Query) -> Answer:
        """Deletes what a list with the same selectors would show, and answers with that list."""
        listed = self.list_all(kind, namespace, query)
        for obj in json.loads(listed.body)["items"]:
            self.delete(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], raw, query)
        return listed

    def _mark_deleted(self, kind: Kind, key: Key, item: Item) -> Item:
        metadata = item.obj["metadata"]
        if metadata.get("deletionTimestamp"):
            return item
        marked = metadata | {"deletionTimestamp": self._timestamp(), "deletionGracePeriodSeconds": 0}
        if kind.generation:
            marked["generation"] = metadata.get("generation", 0) + 1
        return self._storage.put(kind.storage, key, item.obj | {"metadata": marked})

    @staticmethod
    def _deleted(kind: Kind, item: Item) -> Answer:
        if not kind.group and kind.plural in ("pods", "services", "serviceaccounts", "namespaces"):
            return Answer(200, item.form(kind, convert))  # kinds that answer with the object
        metadata = item.obj["metadata"]
        details = {"name": metadata["name"], "group": kind.group, "kind": kind.plural, "uid": metadata["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer(200, dumps(body | {"details": {name: value for name, value in details.items() if value}}))

    def _remove(self, kind: Kind, key: Key, orphan: bool = False) -> Item:
        gone = self._storage.drop(kind.storage, key)
        if not orphan:
            self._collect(gone.obj["metadata"]["uid"])
        if kind.plural == "namespaces":
            self._clear(lambda other, place: place[0] == key[1])
        elif kind.plural == "customresourcedefinitions":
            spec = gone.obj["spec"]
            storage = f"{spec['group']}/{spec['names']['plural']}"
            self._clear(lambda other, place: other == storage)
            self._registry.drop(spec["group"], spec["names"]["plural"])
        return gone

    def _collect(self, uid: str) -> None:
        """Garbage collection: dependants none of whose owners is left."""
        for name, key in self._storage.take_dependants(uid):
            item = self._storage.get(name, key)
            if item is None:
                continue
            owners = item.obj["metadata"].get("ownerReferences") or []
            if any(owner["uid"] in self._storage.alive for owner in owners):
                continue
            self._discard(name, key, item)

    def _clear(self, wanted: Callable[[str, Key], bool]) -> None:
        for name, table in list(self._storage.tables.items()):
            for key in [key for key in table.items if wanted(name, key)]:
                item = table.items.get(key)
                if item is not None:
                    self._discard(name, key, item)

    def _discard(self, name: str, key: Key, item: Item) -> None:
        kind = next((kind for kind in self._registry.kinds.values() if kind.storage == name), None)
        if kind is None:
            return
        if item.obj["metadata"].get("finalizers"):
            self._mark_deleted(kind, key, item)
        else:
            self._remove(kind, key)

    # ---- definitions

    def _register(self, crd: Json) -> None:
        """Serves the kinds of a definition and brings what is stored in line with its schema (no new versions)."""
        spec = crd["spec"]
        place = spec["group"], spec["names"]["plural"]
        if not any((kind.group, kind.plural) == place for kind in self._registry.kinds.values()):
            self._registry.begin(*place)
        self._registry.drop(*place)
        for kind in crds.kinds_of(crd):
            self._registry.add(kind)
            table = self._storage.table(kind.storage)
            for key, item in table.items.items():
                if item.obj["apiVersion"] == kind.api_version:
                    obj = json.loads(dumps(item.obj))
                    self._admission.normalise(kind, obj)
                    table.items[key] = Item(obj)


def _let_through(kind: Kind, old: Json, new: Json, subresource: str) -> Json:
    if subresource == "status":
        changed = {key: value for key, value in old.items() if key != "status"} | {"metadata": dict(old["metadata"])}
        return changed | ({"status": new["status"]} if "status" in new else {})
    if kind.has_status and subresource == "":
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    return new


def _wish(kind: Kind, obj: Json) -> Json:
    left_out = ("metadata", "status") if kind.has_status else ("metadata",)
    return {key: value for key, value in obj.items() if key not in left_out}
