"""Every policy by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from forecasting.errors import UsageError, suggest
from harmony.policies.base import Policy
from harmony.policies.harmony import HarmonyPolicy
from harmony.policies.hpa import HpaPolicy
from harmony.policies.oracle import OraclePolicy
from harmony.policies.reactive import ReactivePolicy
from harmony.policies.static import StaticPolicy

__all__ = ["create_policy", "policy_names"]

POLICIES: dict[str, Callable[[], Policy]] = {
    "harmony": HarmonyPolicy,
    "hpa": HpaPolicy,
    "reactive": ReactivePolicy,
    "static": StaticPolicy,
    "oracle": OraclePolicy,
}


def policy_names() -> tuple[str, ...]:
    """Names in the order in which tables show them."""
    return tuple(POLICIES)


def create_policy(name: str, forecaster: str = "base") -> Policy:
    """The policy of that name with its default settings, using ``forecaster`` if it forecasts.

    Raises `UsageError` naming the near ones if there is none of that name.
    """
    try:
        policy = POLICIES[name]()
    except KeyError:
        raise UsageError(f"no policy {name!r}; {suggest(name, POLICIES)}") from None
    return replace(policy, forecaster=forecaster) if isinstance(policy, HarmonyPolicy) else policy
