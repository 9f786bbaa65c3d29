"""HARMONY: an autoscaler for GPU services that states the risk it takes.

Nothing is imported here until asked for, so that `import harmony` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmony.decision.rule import decide as decide
    from harmony.model.capacity import Capacity as Capacity
    from harmony.model.decision import Decision as Decision
    from harmony.model.lead_time import LeadTime as LeadTime
    from harmony.model.objective import Objective as Objective
    from harmony.model.observation import Observation as Observation

__version__ = "0.1.0"

_HOMES = {
    "Capacity": "harmony.model.capacity",
    "Decision": "harmony.model.decision",
    "LeadTime": "harmony.model.lead_time",
    "Objective": "harmony.model.objective",
    "Observation": "harmony.model.observation",
    "decide": "harmony.decision.rule",
}
__all__ = ["Capacity", "Decision", "LeadTime", "Objective", "Observation", "__version__", "decide"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a promised name from its home on first use."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harmony' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the promised names."""
    return sorted(__all__)
