"""Any static mask that is given as a rule, such as those of `kernels.masks`."""

from __future__ import annotations

from kernels.engines.ruled import ruled_mechanism
from kernels.engines.rules import Call, Rule, causal_part
from kernels.errors import KernelError
from kernels.registry import Taxonomy

__all__ = ["MECHANISM", "masked"]


def masked(call: Call, *, rule: Rule) -> Rule:
    """``rule`` itself, cut off behind the query if the call is causal."""
    if not isinstance(rule, Rule):
        raise KernelError(f"rule is a {type(rule).__name__}, expected a kernels.Rule such as kernels.masks.MASKS make")
    return causal_part(rule) if call.causal else rule


MECHANISM = ruled_mechanism(
    "masked",
    masked,
    summary="a static mask of one's own, given as a rule",
    paper="mask patterns of LongCA-bench, arXiv 2510.17896",
    cost="O(visible blocks x block^2 D) time, O(L D) memory",
    use="patterns of one's own: windows of several services or days packed into one sequence, without looking across",
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="by the rule", kv="by the rule"),
    keeps_all=True,
)
