"""HARMONY: an autoscaler for GPU services that states the risk it takes.

Nothing is imported here until asked for, so that `import harmony` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmony.decision.rule import decide as decide
    from harmony.model.objective import Objective as Objective

__version__ = "0.1.0"

_HOMES = {"Objective": "harmony.model.objective", "decide": "harmony.decision.rule"}
__all__ = ["Objective", "__version__", "decide"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a promised name from its home on first use."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harmony' has no attribute {name!r}")
