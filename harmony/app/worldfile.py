"""The file of `harmony replay --world-file`: replica, clients and supply of a request-level world."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

from forecasting.errors import UsageError
from harmony.app.written import Fields, read_fields
from simulator.living import Measured, WorldSettings
from simulator.nodes import Kind, Supply
from simulator.service_model import Clients, ServiceModel

__all__ = ["read_world"]


def read_world(path: Path | None, ttft_slo_s: float | None) -> WorldSettings:
    """The world that a file describes; what it does not say is as by default. `UsageError` for mistakes."""
    if path is None:
        return WorldSettings(ttft_slo_s=ttft_slo_s)
    fields = read_fields(path)
    utilisation = fields.number("utilisation", 0.8, above=True, most=1)
    world = WorldSettings(
        _replica(fields.part("replica")),
        utilisation,
        _clients(fields.part("clients")),
        _supply(fields.part("supply")),
        ttft_slo_s,
        _measured(fields),
    )
    fields.done()
    return world


def _measured(fields: Fields) -> Measured:
    value = fields.text("measured", "arrivals")
    for known in get_args(Measured):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{fields.where}: measured {value!r}: expected arrivals, served or balance")


def _replica(fields: Fields | None) -> ServiceModel:
    usual = ServiceModel()
    if fields is None:
        return usual
    alone = fields.number("decodeTokensPerSecond", usual.decode_tokens_per_s, above=True)
    limit = fields.number("decodeLimitTokensPerSecond", usual.decode_limit_tokens_per_s, above=True)
    if limit < alone:
        raise UsageError(
            f"{fields.where}: decodeLimitTokensPerSecond {limit:g}: expected at least decodeTokensPerSecond ({alone:g})"
        )
    model = ServiceModel(
        fields.number("prefillTokensPerSecond", usual.prefill_tokens_per_s, above=True),
        alone,
        limit,
        fields.whole("maxConcurrency", usual.max_concurrency, least=1),
        fields.number("kvTokens", math.inf, above=True),
    )
    fields.done()
    return model


def _clients(fields: Fields | None) -> Clients:
    if fields is None:
        return Clients()
    with fields.here():
        clients = Clients(
            fields.seconds("timeout", math.inf), fields.whole("retries", 0), fields.seconds("backoff", 1.0)
        )
    fields.done()
    return clients


def _supply(fields: Fields | None) -> Supply:
    if fields is None:
        return Supply()
    kinds = tuple(_kind(one) for one in fields.parts("kinds")) or (Kind("gpu"),)
    with fields.here():
        supply = Supply(
            kinds,
            fields.whole("replicasPerNode", 1, least=1),
            fields.whole("warmNodes", 0),
            fields.distribution("nodeProvisioning"),
            fields.distribution("imagePull"),
            fields.number("slowPullShare", 0.0, most=1),
            fields.number("slowPullFactor", 5.0),
            fields.number("failedStartShare", 0.0, most=1),
            fields.number("preemptedPerHour", 0.0),
        )
    fields.done()
    return supply


def _kind(fields: Fields) -> Kind:
    kv_tokens = fields.number("kvTokens", above=True) if fields.has("kvTokens") else None
    kind = Kind(
        fields.text("name"),
        fields.number("speed", 1.0, above=True),
        fields.number("price", 1.0),
        fields.whole("nodes", 1_000_000),
        kv_tokens,
    )
    fields.done()
    return kind
