"""Every policy by name: adding one means one module with its class, and one line in `POLICIES` or `FURTHER`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from forecasting.errors import UsageError, suggest
from harmony.policies.aws_predictive import AwsPredictivePolicy
from harmony.policies.bacc import BaccPolicy
from harmony.policies.base import Policy
from harmony.policies.dynamo_like import DynamoLikePolicy
from harmony.policies.harmony import HarmonyPolicy
from harmony.policies.hpa import HpaPolicy
from harmony.policies.keda import KedaPolicy
from harmony.policies.kpa import KpaPolicy
from harmony.policies.mimir_like import MimirLikePolicy
from harmony.policies.oracle import OraclePolicy
from harmony.policies.oracle_free import OracleFreePolicy
from harmony.policies.percentile import PercentilePolicy
from harmony.policies.predictive_hpa import PredictiveHpaPolicy
from harmony.policies.quantile import QuantilePolicy
from harmony.policies.reactive import ReactivePolicy
from harmony.policies.static import StaticPolicy

__all__ = ["create_policy", "policy_names", "policy_summary"]

POLICIES: dict[str, Callable[..., Policy]] = {
    "harmony": HarmonyPolicy,
    "hpa": HpaPolicy,
    "reactive": ReactivePolicy,
    "static": StaticPolicy,
    "oracle": OraclePolicy,
}


def _price(forecaster: str = "base") -> HarmonyPolicy:
    """The policy `harmony` under the name that it had before it was the default."""
    return HarmonyPolicy(forecaster, name="harmony-price")


def _standin() -> HarmonyPolicy:
    """The price rule on ridge and LightGBM specialists alone: what is left without the joint forecast."""
    return HarmonyPolicy(forecaster="", trees=True, thumbs=False, name="standin")


# To be asked for by name: rivals and variants that the usual table does without.
FURTHER: dict[str, Callable[..., Policy]] = {
    "quantile": QuantilePolicy,
    "standin": _standin,
    "percentile": PercentilePolicy,
    "keda": KedaPolicy,
    "kpa": KpaPolicy,
    "predictive-hpa": PredictiveHpaPolicy,
    "mimir-like": MimirLikePolicy,
    "dynamo-like": DynamoLikePolicy,
    "aws-predictive": AwsPredictivePolicy,
    "bacc": BaccPolicy,
    "oracle-free": OracleFreePolicy,
    "harmony-price": _price,
}


def policy_names(*, further: bool = False) -> tuple[str, ...]:
    """Names in the order in which tables show them; with ``further`` also those that are to be asked for."""
    return (*POLICIES, *FURTHER) if further else tuple(POLICIES)


def create_policy(name: str, forecaster: str = "base") -> Policy:
    """The policy of that name with its default settings; one with a setting `forecaster` uses ``forecaster``.

    Raises `UsageError` naming the near ones if there is none of that name.
    """
    make = _policy(name)
    return make(forecaster=forecaster) if "forecaster" in inspect.signature(make).parameters else make()


def policy_summary(name: str) -> str:
    """One sentence on the policy of that name: the first of its docstring; raises as `create_policy`."""
    return (_policy(name).__doc__ or "").partition("\n")[0]


def _policy(name: str) -> Callable[..., Policy]:
    try:
        return (POLICIES | FURTHER)[name]
    except KeyError:
        raise UsageError(f"no policy {name!r}; {suggest(name, policy_names(further=True))}") from None
