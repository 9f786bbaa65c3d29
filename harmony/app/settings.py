"""What the person at the command line chooses, one class per concern; the loop's are in `controller.process`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from forecasting.errors import UsageError, suggest
from harmony.settings import Setting, Value

if TYPE_CHECKING:
    from simulator.traces.trace import Trace

__all__ = [
    "DemoSettings",
    "DoorSettings",
    "JournalSettings",
    "ListenSettings",
    "ReplayTerms",
    "RivalSettings",
    "SweepSettings",
    "TraceSettings",
]

WITH_API = "api.enabled"
OF_A_SWEEP = ("--epsilons", "--rungs", "--resamples", "--workers", "--ray")
GROUPS = {"items": {"type": "string", "pattern": r"^\S+$"}, "uniqueItems": True}


@dataclass(frozen=True)
class JournalSettings:
    """Where decisions and keys are kept, and for how long.

    Attributes:
        journal: address of a database; empty for none.
        retain_days: None keeps everything for ever.
    """

    journal: Annotated[
        str,
        Setting(
            "sqlite:///FILE or postgresql://...: decisions and keys.",
            env="HARMONY_JOURNAL_URL",
            value=Value("", template="harmony.journalSource", whole=True, shared=True),
        ),
    ] = ""
    retain_days: Annotated[
        float | None,
        Setting(
            "Remove decisions older than so many days, every hour; kept for ever by default.",
            least=0,
            value=Value(
                "api.journal.retainDays",
                "Days that decisions are kept; checked every hour, counted back from the newest.",
                30,
                {"type": "number", "minimum": 0},
                when=WITH_API,
            ),
        ),
    ] = None
    retain_inputs_days: Annotated[
        float | None,
        Setting(
            "Remove what they can be recomputed from earlier than that.",
            least=0,
            value=Value(
                "api.journal.retainInputsDays",
                "Days that what they can be recomputed from (the larger part) is kept.",
                7,
                {"type": "number", "minimum": 0},
                when=WITH_API,
            ),
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.retain_inputs_days is not None and self.retain_days is None:
            raise UsageError("--retain-inputs-days goes with --retain-days: add it")


@dataclass(frozen=True)
class ListenSettings:
    """Where API and dashboard listen; ``port`` replaces that of the address (0 for any)."""

    address: Annotated[
        str,
        Setting(
            "Where to listen.",
            value=Value(
                "api.port",
                "Port of API and dashboard, in the pod and in its Service.",
                8000,
                {"minimum": 1024, "maximum": 65_535},
                form=":%v",
                when=WITH_API,
            ),
        ),
    ] = "127.0.0.1:8000"
    # No environment name: HARMONY_PORT is set by Kubernetes beside every Service called harmony.
    port: Annotated[
        int | None, Setting("Another port of that address; 0 for any.", env=False, least=0, most=65_535)
    ] = None

    @property
    def where(self) -> str:
        """The address with the port that counts."""
        return self.address if self.port is None else f"{self.address.rpartition(':')[0]}:{self.port}"


@dataclass(frozen=True)
class DoorSettings:
    """Who may come in, and how often."""

    insecure: Annotated[bool, Setting("Ask nobody for a key, wherever they come from.", env=False)] = False
    wait_for_key: Annotated[
        bool, Setting("Start before there is a key, and let nobody in until one is made.", env=False)
    ] = False
    token_review: Annotated[
        bool,
        Setting(
            "Accept Kubernetes tokens (asks the API server).",
            value=Value("", template="harmony.tokenReview", shared=True),
        ),
    ] = False
    read_groups: Annotated[
        tuple[str, ...],
        Setting(
            "Kubernetes group that may read (repeat).",
            flag="read-group",
            env=False,
            value=Value(
                "api.tokenReview.readGroups",
                "Groups whose Kubernetes tokens may read, as `system:serviceaccounts:monitoring`. With any group in "
                "these lists the server accepts tokens beside API keys, and its account gets a ClusterRole that may "
                "create TokenReviews, nothing else.",
                schema=GROUPS,
                when=WITH_API,
            ),
        ),
    ] = ()
    operate_groups: Annotated[
        tuple[str, ...],
        Setting(
            "Group that may also start work.",
            flag="operate-group",
            env=False,
            value=Value(
                "api.tokenReview.operateGroups", "Groups that may also start backtests.", schema=GROUPS, when=WITH_API
            ),
        ),
    ] = ()
    admin_groups: Annotated[
        tuple[str, ...],
        Setting(
            "Group that may also manage keys.",
            flag="admin-group",
            env=False,
            value=Value(
                "api.tokenReview.adminGroups", "Groups that may also manage API keys.", schema=GROUPS, when=WITH_API
            ),
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Setting(
            "Origin whose pages may read answers (repeat); none by default.",
            flag="cors-origin",
            env=False,
            value=Value(
                "api.corsOrigins",
                "Other origins whose pages may read answers, as `https://portal.example.com`.",
                schema={"items": {"type": "string", "pattern": r"^https?://[^\s/]+$"}, "uniqueItems": True},
                when=WITH_API,
            ),
        ),
    ] = ()
    rate: Annotated[
        float,
        Setting(
            "Requests per second and caller.",
            env=False,
            least=1,
            value=Value("api.rateLimit", default=50, schema={"type": "number", "minimum": 1}, when=WITH_API),
        ),
    ] = 50.0

    def __post_init__(self) -> None:
        if (self.read_groups or self.operate_groups or self.admin_groups) and not self.token_review:
            raise UsageError("groups are looked up by --token-review: add it")


@dataclass(frozen=True)
class DemoSettings:
    """The simulated cluster of `harmony serve --demo`."""

    services: Annotated[int, Setting("Demo: how many services.", env=False, least=1, most=2000)] = 5
    speed: Annotated[float, Setting("Demo: seconds that pass in one second.", env=False, least=0.1, most=600)] = 60.0
    seed: Annotated[int, Setting("Demo: seed of everything random.", env=False, least=0)] = 0


@dataclass(frozen=True)
class RivalSettings:
    """Which policies are replayed, how they are tuned and scored, and what comes of it; none means all of them."""

    policies: Annotated[
        tuple[str, ...], Setting("Policy to run (repeat); all of them by default.", flag="policy", short="p", env=False)
    ] = ()
    tune: Annotated[bool, Setting("Choose every policy's settings on the part before the scored one.", env=False)] = (
        False
    )
    test_fraction: Annotated[float, Setting("Share of the rows, at their end, that is scored.", env=False)] = 0.4
    forecaster: Annotated[
        str, Setting("What harmony forecasts with: base, a model folder, or a method such as ridge.", env=False)
    ] = "base"
    refresh_s: Annotated[
        float,
        Setting(
            "The forecaster (or its calibration) learns on line in periods of this length, such as 1h, as in a "
            "cluster; 0s: a method is fitted once, on the part before the scored one.",
            flag="refresh",
            duration=True,
            env=False,
        ),
    ] = 0.0
    samples: Annotated[int, Setting("Sample paths per forecast.", env=False)] = 200
    seed: Annotated[int, Setting("Seed of everything random.", env=False)] = 0
    out: Annotated[
        Path | None,
        Setting("Folder for replay.json, replicas.csv and report.html; for sweep.json and sweep.html.", env=False),
    ] = None
    fail_on: Annotated[
        str | None,
        Setting(
            "Exit with 1 if under this policy the objective is violated for a larger share of the time than epsilon, "
            "or no permitted replica count could have kept it.",
            env=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        if not self.policies:
            return  # nothing to check: `harmony --help` makes the default, and need not import the policies
        from harmony.policies.registry import create_policy

        for name in self.policies:
            create_policy(name)

    def fails_on_one_of(self, names: Iterable[str], where: str = "") -> None:
        """Raises `UsageError` where `--fail-on` names none of the policies that run; ``where`` they are named."""
        known = list(names)
        if self.fail_on and self.fail_on not in known:
            from harmony.policies.registry import create_policy

            if where:
                raise UsageError(f"--fail-on {self.fail_on}: no policy of {where}; {suggest(self.fail_on, known)}")
            create_policy(self.fail_on)
            raise UsageError(f"--fail-on {self.fail_on}: that policy is not replayed; add --policy {self.fail_on}")

    @property
    def names(self) -> list[str]:
        """The policies in the order given."""
        from harmony.policies.registry import policy_names

        return list(self.policies or policy_names())


@dataclass(frozen=True)
class ReplayTerms:
    """How large a service is, how fast it starts and what is promised; None leaves what a file says, or the default."""

    mean_replicas: Annotated[
        float | None,
        Setting(
            "Where no capacity is given: replicas that the mean demand shall need.",
            env=False,
            default_help="20; for a log of requests a replica as the service model has it",
        ),
    ] = None
    lead_time: Annotated[
        str | None,
        Setting(
            "Time a replica takes to become ready, or a lognormal distribution as median and spread: 5m*1.4.",
            env=False,
            default_help="5m",
        ),
    ] = None
    epsilon: Annotated[float | None, Setting("Tolerated share of violated time.", env=False, default_help="0.01")] = (
        None
    )
    min_replicas: Annotated[int | None, Setting("Never fewer replicas than this.", env=False, default_help="1")] = None
    max_replicas: Annotated[
        int | None, Setting("Never more replicas than this.", env=False, default_help="no limit")
    ] = None
    gpus_per_replica: Annotated[int | None, Setting("GPUs that one replica occupies.", env=False, default_help="1")] = (
        None
    )
    price: Annotated[float | None, Setting("Price of one GPU-hour.", env=False, default_help="1")] = None

    @property
    def objective(self) -> dict[str, Any]:
        """What was given of an `Objective`."""
        given = {
            "epsilon": self.epsilon,
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "gpus_per_replica": self.gpus_per_replica,
            "price_per_gpu_hour": self.price,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class TraceSettings:
    """How a trace file is read, the same for every verb that reads one."""

    step: Annotated[
        str | None, Setting("Average into this step, such as 5m; requests are counted in it.", env=False)
    ] = None
    columns: Annotated[
        tuple[str, ...],
        Setting(
            "NAME=COLUMN:UNIT:LEVEL:KIND (repeat; all but COLUMN may be left out): keep these, the first as demand.",
            flag="column",
            env=False,
        ),
    ] = ()
    time_column: Annotated[str | None, Setting("The time column, if its name is not a usual one.", env=False)] = None
    where: Annotated[tuple[str, ...], Setting("COLUMN=TEXT: keep only these rows (repeat).", env=False)] = ()
    format: Annotated[str | None, Setting("Read as this format instead of the recognised one.", env=False)] = None
    sort: Annotated[bool, Setting("Put rows in the order of their times, or refuse them.", env=False)] = True
    timezone: Annotated[
        str, Setting("Zone of times without an offset, such as Europe/Berlin; UTC by default.", env=False)
    ] = ""
    decimal: Annotated[
        str | None, Setting("Sign before decimals; a comma by default where semicolons separate.", env=False)
    ] = None
    dayfirst: Annotated[
        bool | None,
        Setting("Whether 05/01/2026 is in January; as the dates tell by default.", env=False),
    ] = None

    @property
    def step_s(self) -> float | None:
        """The step in seconds; None where none was given."""
        from harmony.durations import parse_duration

        return None if self.step is None else parse_duration(self.step)

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `load_trace` but trace, demand and step; raises `UsageError` for a row choice that is none."""
        rows: dict[str, str] = {}
        for entry in self.where:
            column, sep, text = entry.partition("=")
            if not sep or not column:
                raise UsageError(f"--where {entry!r}: expected COLUMN=TEXT")
            rows[column] = text
        given: dict[str, Any] = {
            "columns": self.columns or None,
            "time_column": self.time_column,
            "where": rows or None,
            "format": self.format,
            "timezone": self.timezone,
            "decimal": self.decimal,
            "dayfirst": self.dayfirst,
        }
        said = {name: value for name, value in given.items() if value not in (None, "")}
        return said if self.sort else said | {"sort": False}

    def load(self, trace: str, demand: str | None, *, raw: bool = False) -> Trace:
        """The trace as these settings have it read; raises as `load_trace` does."""
        from simulator.traces.registry import load_trace

        return load_trace(trace, demand=demand, step_s=self.step_s, raw=raw, **self.reading)


@dataclass(frozen=True)
class SweepSettings:
    """Whether policies are swept over traces and objectives and compared at equal violation, and by whom."""

    sweep: Annotated[
        bool, Setting("Compare many policies at equal violation, by all cores of this machine.", env=False)
    ] = False
    epsilons: Annotated[
        str | None, Setting("Sweep: objectives to run each policy at, such as 0.001,0.01,0.05.", env=False)
    ] = None
    rungs: Annotated[
        int, Setting("Sweep: settings of each policy's own ladders to run for its frontier.", env=False, least=0)
    ] = 0
    resamples: Annotated[int, Setting("Sweep: bootstrap resamples of days for the intervals.", env=False, least=0)] = (
        200
    )
    workers: Annotated[
        int | None, Setting("Sweep: processes to run it in.", env=False, least=1, default_help="all cores")
    ] = None
    ray: Annotated[
        str | None, Setting("Sweep: run it on the Ray cluster at this address (auto, local, ray://...).", env=False)
    ] = None

    def __post_init__(self) -> None:
        _ = self.objectives

    def goes_with(self, given: Iterable[str]) -> None:
        """Raises `UsageError` where one of the flags ``given`` says something of a sweep and there is none."""
        for flag in given:
            if flag in OF_A_SWEEP and not self.sweep:
                raise UsageError(f"{flag} says something of a sweep: add --sweep")

    @property
    def objectives(self) -> tuple[float, ...]:
        """The epsilons, each once; empty for the objective's own alone."""
        try:
            return tuple(dict.fromkeys(float(e) for e in (self.epsilons or "").split(",") if e.strip()))
        except ValueError:
            raise UsageError(f"--epsilons {self.epsilons!r}: expected numbers such as 0.001,0.01,0.05") from None
