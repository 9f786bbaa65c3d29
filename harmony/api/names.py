"""What may stand in a path: names as Kubernetes has them, ids as this project makes them; nothing else gets further."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

__all__ = ["DecisionId", "JobId", "KeyId", "Name", "Namespace"]

_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
Namespace = Annotated[
    str, Path(max_length=63, pattern=rf"^{_LABEL}$", description="Namespace of the service.", examples=["serving"])
]
Name = Annotated[
    str,
    Path(max_length=253, pattern=rf"^{_LABEL}(\.{_LABEL})*$", description="Name of the service.", examples=["chat"]),
]
DecisionId = Annotated[
    str, Path(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", description="Id of a decision.")
]
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="Id of a job.", examples=["0123456789abcdef"])]
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="Id of a key.", examples=["0123456789ab"])]
