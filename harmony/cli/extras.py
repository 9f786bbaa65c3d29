"""Verbs whose libraries are an extra of the distribution say which one, in a line, where it is not installed."""

from __future__ import annotations

import contextlib
from types import TracebackType

from forecasting.errors import UsageError

__all__ = ["needing"]

OURS = frozenset({"controller", "forecasting", "harmony", "kernels", "simulator"})


class needing(contextlib.ContextDecorator):  # noqa: N801 - used as a decorator and in with statements
    """Around code that needs these extras: a library that is not there becomes a `UsageError` with what to install."""

    def __init__(self, *extras: str) -> None:
        self._extras = extras

    def __enter__(self) -> None:
        """Nothing is tried beforehand: looking for libraries takes time, and importing them says the same."""

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Say what is missing; a missing module of our own is a bug and stays one."""
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            if package not in OURS:
                raise UsageError(
                    f"this needs {package}, which is not installed: "
                    f"pip install 'harmony-autoscaler[{','.join(self._extras)}]'"
                ) from error
