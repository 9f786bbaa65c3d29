"""RBAC as far as tests need it: PolicyRules, SelfSubjectAccessReview, and TokenReview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rule = dict[str, Any]


def _in(value: str, allowed: Sequence[str]) -> bool:
    return "*" in allowed or value in allowed


def allows(
    rules: Sequence[Rule],
    *,
    verb: str,
    group: str,
    resource: str,
    subresource: str = "",
    name: str = "",
    namespace: str = "",
) -> bool:
    """Whether a rule allows the request. A rule may carry `namespaces` (as a Role would); without it holds anywhere."""
    full = f"{resource}/{subresource}" if subresource else resource
    for rule in rules:
        if not _in(verb, rule.get("verbs") or ()) or not _in(group, rule.get("apiGroups") or ()):
            continue
        resources = rule.get("resources") or ()
        if not _in(full, resources) and not (subresource and f"*/{subresource}" in resources):
            continue
        names = rule.get("resourceNames")
        if names and name not in names:
            continue
        spaces = rule.get("namespaces")
        if spaces and namespace not in spaces:
            continue
        return True
    return False


def reviewed(review: dict[str, Any], rules: Sequence[Rule] | None) -> dict[str, Any]:
    """The SelfSubjectAccessReview with its status."""
    asked = (review.get("spec") or {}).get("resourceAttributes") or {}
    verdict = rules is None or allows(
        rules,
        verb=asked.get("verb", ""),
        group=asked.get("group", ""),
        resource=asked.get("resource", ""),
        subresource=asked.get("subresource", ""),
        name=asked.get("name", ""),
        namespace=asked.get("namespace", ""),
    )
    metadata = {"creationTimestamp": None}
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": metadata,
        "spec": review.get("spec") or {},
        "status": {"allowed": verdict, **({} if verdict else {"reason": "no rule allows it"})},
    }


def token_reviewed(review: dict[str, Any], people: Mapping[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """The TokenReview with its status."""
    known = people.get((review.get("spec") or {}).get("token", ""))
    status: dict[str, Any] = {"user": {}, "error": "invalid bearer token"}
    if known is not None:
        status = {"authenticated": True, "user": {"username": known[0], "groups": [*known[1], "system:authenticated"]}}
    return {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": review.get("spec") or {},
        "status": status,
    }
