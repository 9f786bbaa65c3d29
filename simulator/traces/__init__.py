"""Traces: readers of public and of a user's own formats, and a seeded generator of synthetic services.

Nothing is imported here until asked for. The generator is at `simulator.traces.generate` (`generate`, `random_panel`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.traces.registry import TraceInfo as TraceInfo
    from simulator.traces.registry import list_traces as list_traces
    from simulator.traces.registry import load_trace as load_trace
    from simulator.traces.request_trace import RequestTrace as RequestTrace
    from simulator.traces.trace import Trace as Trace
    from simulator.traces.write import write_trace as write_trace

_HOMES = {
    "RequestTrace": "request_trace",
    "Trace": "trace",
    "TraceInfo": "registry",
    "list_traces": "registry",
    "load_trace": "registry",
    "write_trace": "write",
}
__all__ = ["RequestTrace", "Trace", "TraceInfo", "list_traces", "load_trace", "write_trace"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name from its home on first use."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
