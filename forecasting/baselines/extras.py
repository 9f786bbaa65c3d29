"""Libraries that only some methods need: where one is missing, a line says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from forecasting.errors import UsageError

__all__ = ["library"]


def library(module: str, method: str, called: str, extra: str) -> Any:  # noqa: ANN401
    """The module; `UsageError` naming the extra where ``method``'s library, ``called`` so, is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise UsageError(
            f"{method} needs {called}, which is not installed: pip install 'harmony-autoscaler[{extra}]'"
        ) from err
