"""Policies among single requests: what they see, what is counted, and what a world's file makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import fit_replica
from forecasting.errors import DataError, UsageError
from forecasting.panel import Indicator, Panel
from harmony.cli.main import run as harmony
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Unforecast
from simulator.living import WorldSettings, drawn_requests
from simulator.nodes import Kind, Supply
from simulator.output import write_outputs
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.requests import Clients
from simulator.traces.request_trace import RequestTrace
from simulator.traces.trace import Events, Trace
from simulator.traces.write import write_trace
from tests.simulator.worlds import waves


def rates(steps: int = 240, scale: float = 0.03) -> Trace:
    panel = Panel(waves(steps)[:, None] * scale, (Indicator("rps", "requests/s"),), 0.0, 60.0, name="made")
    return Trace(panel, "rps")


@dataclass(frozen=True)
class Watcher(Unforecast):
    """A fixed count; keeps what it was shown."""

    count: int
    seen: list[Observation]
    name: str = "watcher"

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def behavior(self) -> Behavior | None:
        return None

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return Decision(replicas=self.count, current=observation.ordered, reason=Reason.FORECAST)

    def ladders(self, past: Any) -> Any:
        return [[self]]


def watched(count: int, world: WorldSettings, trace: Trace | None = None) -> tuple[Any, list[Observation]]:
    watcher = Watcher(count, [])
    settings = ReplaySettings(world=world, mean_replicas=8)
    return replay(trace or rates(), [watcher], settings).policies["watcher"], watcher.seen


@pytest.mark.long
def test_policies_see_queue_cache_and_retries_and_figures_are_recounted() -> None:
    world = WorldSettings(clients=Clients(15.0, 1, 2.0))
    few, seen = watched(4, world)
    enough, calm = watched(16, world)
    names = set(seen[0].indicators or {})
    assert {"queue_length", "tokens_in_flight", "tokens_waiting", "retries_per_second", "late_share"} <= names
    last = [dict(o.indicators or {}) for o in seen]
    assert max(i["queue_length"] for i in last) > 10
    assert max(i["retries_per_second"] for i in last) > 0
    assert max(dict(o.indicators or {})["queue_length"] for o in calm[10:]) == 0
    # what is sent again is demand too: the service cannot tell it apart
    offered = rates().panel.values[:, 0]
    more = np.array([o.demand for o in seen]) - offered
    assert (more >= -1e-12).all()
    np.testing.assert_allclose(more, [i["retries_per_second"] for i in last], atol=1e-12)
    assert few.requests["gave_up"] > 0
    assert few.requests["slo_attainment"] < 0.9 < 0.99 < enough.requests["slo_attainment"]
    assert few.requests["slo_attainment"] == pytest.approx(1 - few.requests["slo_miss_rate"])
    assert few.violation_rate > 0.3
    assert enough.violation_rate < 0.05


def test_a_step_is_violated_when_too_many_of_its_requests_were_late() -> None:
    rng = np.random.default_rng(1)
    n = 3_000
    trace = RequestTrace(
        np.sort(rng.uniform(0, 3_600, n)), rng.integers(1, 900, n) * 1.0, rng.integers(1, 300, n) * 1.0
    )
    panel = trace.to_panel(60.0)
    made = Trace(panel, panel.names[0], trace)
    seen: dict[str, Any] = {}
    for slo in (3.0, 9.0):  # an idle replica of this size answers within 2.6 s
        run, _ = watched(7, WorldSettings(ttft_slo_s=slo), made)
        seen[str(slo)] = run
        assert run.requests["ttft_slo_s"] == slo
        assert run.violation_rate == run.violated[run.violated.size * 3 // 5 :].mean()
    assert 1 > seen["3.0"].violation_rate > seen["9.0"].violation_rate


def test_what_is_dropped_drains_and_is_not_lost() -> None:
    @dataclass(frozen=True)
    class Halving(Watcher):
        def decide(self, observation: Observation) -> Decision:
            return replace(super().decide(observation), replicas=16 if (observation.now_s // 600) % 2 else 6)

    run = replay(rates(), [Halving(1, [])], ReplaySettings(world=WorldSettings(), mean_replicas=8)).policies["watcher"]
    assert run.requests["drain_replica_hours"] > 0
    assert run.requests["unfinished"] < 0.05 * run.requests["requests"]  # what the last minute brought


def test_costs_follow_the_kinds_and_starts_are_learned() -> None:
    supply = Supply((Kind("own", nodes=1), Kind("cheap", speed=0.5, price=0.25)), 4, 1, StartUp(120.0, 1.3),
                    StartUp(30.0), 0.1, 3.0, 0.1, 0.5)  # fmt: skip
    run, seen = watched(12, WorldSettings(supply=supply))
    assert run.cost < run.gpu_hours  # eight of twelve are cheap
    assert run.cost >= run.gpu_hours * 0.25
    assert not seen[0].lead_time.is_known
    assert seen[-1].lead_time.median_s != seen[0].lead_time.median_s
    assert (run.ready <= 12).all()


def test_the_same_world_twice_and_whatever_the_company() -> None:
    world = WorldSettings(clients=Clients(15.0, 1, 2.0), supply=Supply(preempted_per_hour=0.3))
    settings = ReplaySettings(world=world, mean_replicas=8, seed=3)
    both = replay(rates(), ["hpa", "reactive"], settings)
    alone = replay(rates(), ["reactive"], settings)
    mine, other = both.policies["reactive"].to_json(), alone.policies["reactive"].to_json()
    assert mine | {"seconds": 0} == other | {"seconds": 0}
    assert both.world == "requests"


def test_drawn_requests_have_the_rates_of_the_panel() -> None:
    trace = rates(400)
    drawn = drawn_requests(trace.panel, 5)
    again = drawn.to_panel(60.0).values[:, 0]
    assert again.mean() == pytest.approx(trace.panel.values[:-1, 0].mean(), rel=0.03)
    assert np.corrcoef(again, trace.panel.values[: again.size, 0])[0, 1] > 0.8
    assert drawn.prompt_tokens.mean() == pytest.approx(914, rel=0.05)
    assert drawn.output_tokens.mean() == pytest.approx(343, rel=0.05)


def test_a_demand_that_is_no_rate_of_requests_has_no_such_world() -> None:
    panel = Panel(waves(60)[:, None], (Indicator("load", "cores"),), 0.0, 60.0, name="made")
    with pytest.raises(DataError, match="requests/s"):
        replay(Trace(panel, "load"), ["reactive"], ReplaySettings(world=WorldSettings()))
    many = Panel(waves(60)[:, None] * 1e6, (Indicator("rps", "requests/s"),), 0.0, 60.0, name="made")
    with pytest.raises(DataError, match="more than"):
        replay(Trace(many, "rps"), ["reactive"], ReplaySettings(world=WorldSettings()))


def test_tables_and_report_say_what_a_violation_is(tmp_path: Path) -> None:
    trace = rates()
    result = replay(trace, ["reactive", "static"], ReplaySettings(world=WorldSettings(), mean_replicas=8))
    write_outputs(result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "requests within the TTFT bound" in page
    assert "between tokens p95" in page
    assert "more than 5% of the requests" in page
    assert "demand exceeded what was ready." not in page
    told = json.loads((tmp_path / "replay.json").read_text())
    assert {"slo_attainment", "itl_p95_s", "ttft_p99_s"} <= set(told["policies"]["static"]["requests"])


# ---- command line ----------------------------------------------------------------------------------------------
def written(folder: Path, text: str) -> tuple[Path, Path]:
    write_trace(rates(120).panel, folder / "rps.csv")
    (folder / "world.yaml").write_text(text)
    return folder / "rps.csv", folder / "world.yaml"


def test_the_example_s_world_is_read_and_changes_what_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parents[2] / "examples" / "simulator" / "world.yaml"
    trace, world = written(tmp_path, example.read_text())
    common = ["replay", str(trace), "--policy", "reactive", "--world", "requests", "--json", "--mean-replicas", "20"]
    assert harmony(common) == 0
    plain = json.loads(capsys.readouterr().out)["policies"]["reactive"]
    assert harmony([*common, "--world-file", str(world)]) == 0
    harder = json.loads(capsys.readouterr().out)["policies"]["reactive"]
    assert plain["cost"] == pytest.approx(plain["gpu_hours"])
    assert harder["cost"] < harder["gpu_hours"]  # some run on the cheaper kind
    assert "gave_up" in harder["requests"]
    assert "gave_up" not in plain["requests"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("utilisation: 2", "utilisation 2"),
        (
            "replica: {prefillTokensPerSecond: 0}",
            "world.yaml: replica: prefillTokensPerSecond 0: expected a number above 0",
        ),
        ("replica: {decodeLimitTokensPerSecond: 1}", "decodeLimitTokensPerSecond 1: expected at least"),
        ("supply: {slowPullShare: 2}", "world.yaml: supply: slowPullShare 2: expected"),
        ("supply: {failedStartShare: 1}", "world.yaml: supply: the shares of"),
        ("clients: {timeout: soon}", "world.yaml: clients: timeout 'soon' is no duration"),
        ("clients: {timeout: 5}", "clients: timeout 5: expected a duration"),
        ("supply: {kinds: [{speed: 2}]}", "supply: kinds[0]: name is missing"),
        ("suply: {}", "no field 'suply'; did you mean 'supply'?"),
        ("[1, 2]", "expected fields"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_in_a_world_s_file_are_one_line(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, world = written(tmp_path, text)
    assert harmony(["replay", str(trace), "--world", "requests", "--world-file", str(world)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_world_s_file_goes_with_the_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, world = written(tmp_path, "{}")
    assert harmony(["replay", str(trace), "--world-file", str(world)]) == 2
    assert "--world requests" in capsys.readouterr().err
    assert replace(WorldSettings(), utilisation=0.5).utilisation == 0.5


# ---- real runs -------------------------------------------------------------------------------------------------
@pytest.mark.data
def test_a_fitted_replica_foretells_real_runs_that_it_has_not_seen(data_dir: Path) -> None:
    folder = data_dir / "vllm_gpu_runs"
    model = fit_replica.fit([fit_replica.read(folder, name) for name in fit_replica.FITTED])
    assert 0.003 < 1 / model.decode_tokens_per_s < 0.008
    assert 3_000 < model.decode_limit_tokens_per_s < 3_800
    for name in fit_replica.HELD_OUT:
        run = fit_replica.read(folder, name)
        rows = fit_replica.usable(run)
        said = fit_replica.foretold(fit_replica.parameters(model), run, rows)
        assert np.median(np.abs(said / run.output[rows] - 1)) < 0.15
        running, _ = fit_replica.simulated(run, model, 0.2, 0)
        assert running.mean() == pytest.approx(run.running.mean(), rel=0.2)


def test_what_is_served_hides_demand_and_the_balance_tells_it() -> None:
    shown = {}
    for measured in ("arrivals", "served", "balance"):
        _, seen = watched(4, WorldSettings(measured=measured))  # type: ignore[arg-type]
        shown[measured] = np.array([o.demand for o in seen])
    asked = rates().panel.values[:, 0]
    busy = np.arange(asked.size)[asked > 4.5]
    assert busy.size > 20
    assert shown["served"][busy].mean() < 0.9 * shown["arrivals"][busy].mean()  # four replicas carry less
    assert shown["balance"].sum() == pytest.approx(asked.sum(), rel=0.05)
    runs = {
        m: replay(rates(), ["reactive"], ReplaySettings(world=WorldSettings(measured=m), mean_replicas=8))  # type: ignore[arg-type]
        for m in ("served", "balance")
    }
    late = {m: r.policies["reactive"].requests["slo_miss_rate"] for m, r in runs.items()}
    assert late["balance"] < late["served"]


def test_a_metric_outage_hides_demand_but_not_from_the_requests() -> None:
    trace = rates()
    hidden = trace.panel.values.copy()
    hidden[100:130] = np.nan
    asked = trace.panel.values[:, 0]
    out = Trace(replace(trace.panel, values=hidden), "rps", events=Events(demand=asked))
    run, seen = watched(12, WorldSettings(), out)
    whole, _ = watched(12, WorldSettings(), trace)
    assert run.requests == whole.requests
    assert {o.now_s / 60 for o in seen if np.isnan(o.demand)} >= set(range(101, 130))
    short = Trace(trace.panel, "rps", events=Events(free=np.ones(240)))
    with pytest.raises(UsageError, match="shortage"):
        watched(12, WorldSettings(), short)
