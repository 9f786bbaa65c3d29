"""The simulated world of the control loop: traces, a GPU pool with cold starts, replays and their reports.

Nothing is imported here until asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.replaying import replay as replay
    from simulator.traces.registry import load_trace as load_trace

_HOMES = {"load_trace": "simulator.traces.registry", "replay": "simulator.replaying"}
__all__ = ["load_trace", "replay"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name from its home on first use."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'simulator' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the promised names."""
    return sorted(__all__)
