"""What the chart allows the controller, as the API server would read it; other tests compare requests with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.helm.chart import NAMESPACE, RELEASE, Doc, documents, of_kind, one

__all__ = ["PolicyRule", "allows", "bound_rules", "granted_rules"]


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule bound to the controller's service account.

    Attributes:
        namespace: where it holds; "" for the whole cluster.
        api_groups, resources, verbs: as in the rule; a subresource is spelled ``deployments/scale``.
        resource_names: the only names it holds for; empty for all.
    """

    namespace: str
    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    resource_names: tuple[str, ...] = ()

    def allows(self, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """Whether this rule alone lets the request through (as the RBAC authorizer judges)."""
        return (
            self.namespace in ("", namespace)
            and bool({verb, "*"} & set(self.verbs))
            and bool({group, "*"} & set(self.api_groups))
            and bool({resource, "*"} & set(self.resources))
            and (not self.resource_names or name in self.resource_names)
        )

    def to_json(self) -> dict[str, Any]:
        """As a role spells it, with `namespaces` where it holds (the shape that `ApiServer.enforce` takes)."""
        rule = {"apiGroups": self.api_groups, "resources": self.resources, "verbs": self.verbs}
        if self.resource_names:
            rule["resourceNames"] = self.resource_names
        if self.namespace:
            rule["namespaces"] = (self.namespace,)
        return {key: list(value) for key, value in rule.items()}


def granted_rules(
    values: dict[str, Any] | None = None, name: str = RELEASE, namespace: str = NAMESPACE
) -> list[PolicyRule]:
    """Every rule that a release with these values binds to the account of its controller pods."""
    docs = documents(values, name, namespace)
    account = one(docs, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    return bound_rules(docs, account, namespace)


def bound_rules(docs: list[Doc], account: str, namespace: str) -> list[PolicyRule]:
    """The rules of all roles that bindings among `docs` give to a service account."""
    roles = {(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]): d for d in docs if "rules" in d}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    found: list[PolicyRule] = []
    for binding in (*of_kind(docs, "ClusterRoleBinding"), *of_kind(docs, "RoleBinding")):
        if subject not in binding["subjects"]:
            continue
        where = binding["metadata"].get("namespace", "") if binding["kind"] == "RoleBinding" else ""
        ref = binding["roleRef"]
        role = roles[(ref["kind"], where if ref["kind"] == "Role" else "", ref["name"])]
        for rule in role["rules"]:
            names = tuple(rule.get("resourceNames", ()))
            groups, resources, verbs = (tuple(rule[k]) for k in ("apiGroups", "resources", "verbs"))
            found.append(PolicyRule(where, groups, resources, verbs, names))
    return found


def allows(
    rules: Iterable[PolicyRule], verb: str, group: str, resource: str, namespace: str = "", name: str = ""
) -> bool:
    """Whether any rule lets the request through; `resource` with its subresource, as ``deployments/scale``."""
    return any(rule.allows(verb, group, resource, namespace, name) for rule in rules)
