"""What all typed models of the custom resource share: strict, frozen, camelCase on the outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

__all__ = [
    "ApiModel",
    "Count",
    "DnsLabel",
    "IndicatorName",
    "MetricUnit",
    "PromQL",
    "map_by",
    "plain_list",
    "whole_default",
]

MAX_REPLICAS = 100_000
DNS_NAME = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"


class ApiModel(BaseModel):
    """A frozen part of the resource; unknown fields and numbers in quotes are mistakes, as the API server sees them."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
    )


Count = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
IndicatorName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)]
PromQL = Annotated[str, Field(min_length=1, max_length=4096)]
MetricUnit = Annotated[str, Field(max_length=63)]


def map_by(key: str) -> JsonDict:
    """Schema marks of a list whose items are told apart by ``key`` (server-side apply merges them one by one)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def plain_list(kind: str = "atomic") -> JsonDict:
    """Schema marks of a list that is owned as a whole (``atomic``) or holds each value once (``set``)."""
    return {"x-kubernetes-list-type": kind}


def whole_default() -> JsonDict:
    """Schema mark of an object that is there by default, so that the defaults of its fields are too."""
    return {"default": {}}
