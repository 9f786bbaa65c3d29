"""What an application is made of: the ports it was given and its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harmony.api.jobs import Jobs
from harmony.api.ports import (
    ExplainForecastPort,
    ExplainPort,
    ForecastPort,
    JournalPort,
    MetricsPort,
    ModelsPort,
    TokenReviewer,
)
from harmony.api.roles import Role
from harmony.serving.hub import Hub

__all__ = ["ApiSettings", "ApiState"]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API behaves.

    Attributes:
        is_open: no keys asked for; the command line allows it on loopback or with --insecure only.
        open_role: the role of everybody where it is open.
        hosts: Host headers that are answered (without port); empty for all. An open server on loopback names its own,
            or a web page could reach it through a name that it lets point to 127.0.0.1.
        groups: role of a Kubernetes group.
        open_paths: exact paths that need no key, besides health.
        open_prefixes: the same for all paths below.
        login_path: where a browser without a key is sent; empty for nowhere.
        cors_origins: origins that may read answers in a browser; none by default.
        rate, burst: requests per second and caller, and how many at once.
        failed_rate, failed_burst: wrong keys per second and address, and how many at once.
        work_cost: what a request that computes counts for.
        body_limit: bytes of a request body.
        header_limit: bytes of all request headers.
        depth_limit: nesting of a JSON body.
        time_limit_s: seconds until a request is given up (event streams are exempt).
        concurrency: requests under way at most.
        streams, streams_each: event streams at most, in all and of one caller.
        keys_ttl_s: seconds after which keys are read again: how late another replica hears of a revocation.
        token_ttl_s, token_failed_ttl_s: seconds that a token review is believed.
    """

    is_open: bool = False
    open_role: Role = Role.ADMIN
    hosts: frozenset[str] = frozenset()
    groups: Mapping[str, Role] = field(default_factory=dict)
    open_paths: frozenset[str] = frozenset()
    open_prefixes: tuple[str, ...] = ()
    login_path: str = ""
    cors_origins: tuple[str, ...] = ()
    rate: float = 50.0
    burst: float = 200.0
    failed_rate: float = 0.5
    failed_burst: float = 20.0
    work_cost: float = 5.0
    body_limit: int = MIB
    header_limit: int = 32 * 1024
    depth_limit: int = 16
    time_limit_s: float = 20.0
    concurrency: int = 512
    streams: int = 64
    streams_each: int = 16
    keys_ttl_s: float = 5.0
    token_ttl_s: float = 60.0
    token_failed_ttl_s: float = 10.0


@dataclass(slots=True)
class ApiState:
    """Everything that routes use; ports that are None answer 503 "not-configured"."""

    hub: Hub
    journal: JournalPort | None = None
    explain: ExplainPort | None = None
    forecast: ForecastPort | None = None
    jobs: Jobs | None = None
    models: ModelsPort | None = None
    metrics: MetricsPort | None = None
    token_review: TokenReviewer | None = None
    settings: ApiSettings = field(default_factory=ApiSettings)
    health: Callable[[], str] = lambda: ""  # what is wrong with the loop behind the hub; empty for nothing
    notice: Callable[[], str] = lambda: ""  # what is wrong beside it while it goes on; for those who may read
    explain_forecast: ExplainForecastPort | None = None
    gpu_budget: int = 0  # what the loop was started with; 0 for no budget
    now_s: Callable[[], float] = time.time  # noqa: TID251 - the web is the live world
    monotonic_s: Callable[[], float] = time.monotonic
