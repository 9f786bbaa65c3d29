"""Every route over real HTTP: what it answers, to whom, and that it is what the models say."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx2 as httpx
import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from forecasting.panel import Indicator, Panel
from harmony.api import models
from harmony.app.answering import PostedHistories
from harmony.app.backtest_job import work
from harmony.policies import registry
from harmony.policies.static import StaticPolicy
from tests.api.conftest import World

ROLES = ("read", "operate", "admin")
RANK = {None: 0, "read": 1, "operate": 2, "admin": 3}
BACKTEST = {"demand": [float(100 + i % 60) for i in range(300)], "seed": 0}
HISTORY = {
    "indicators": [{"name": "rps", "unit": "requests/s"}, {"name": "gpu", "level": 2}],
    "step_seconds": 60,
    "start": "2026-03-01T12:00:00Z",
    "values": [[float(i % 7), None if i == 3 else 0.5] for i in range(40)],
    "horizon": 4,
    "samples": 50,
    "paths": 2,
}
SERVICE = "/api/v1/services/{service}"

# method, path, body, least role, model of the answer
ROUTES = [
    ("GET", "/api/v1/services", None, "read", models.FleetPage),
    ("GET", SERVICE, None, "read", models.Service),
    ("GET", SERVICE + "/forecast", None, "read", models.Forecast),
    ("GET", SERVICE + "/forecast?paths=5&level=1", None, "read", models.Forecast),
    ("GET", SERVICE + "/calibration", None, "read", models.Calibration),
    ("GET", SERVICE + "/decisions", None, "read", models.DecisionPage),
    ("GET", "/api/v1/decisions/{decision}", None, "read", models.Decision),
    ("GET", "/api/v1/decisions/{decision}/explanation", None, "read", models.Explanation),
    ("POST", SERVICE + "/what-if", {"epsilon": 0.001}, "read", models.WhatIf),
    ("POST", "/api/v1/forecast", HISTORY, "read", models.AdHocForecast),
    ("GET", "/api/v1/jobs", None, "read", models.JobPage),
    ("POST", "/api/v1/jobs/backtests", BACKTEST, "operate", models.Job),
    ("GET", "/api/v1/models", None, "read", models.ModelPage),
    ("GET", "/api/v1/me", None, "read", models.Me),
    ("GET", "/api/v1/keys", None, "admin", models.KeyPage),
    ("POST", "/api/v1/keys", {"name": "grafana", "role": "read"}, "admin", models.NewKeyAnswer),
    ("GET", "/api/v1/audit", None, "admin", models.AuditPage),
    ("GET", "/api/v1/gpu-budget", None, "read", models.GpuBudget),
    ("PUT", "/api/v1/gpu-budget", {"gpus": 40}, "operate", models.GpuBudget),
    ("GET", "/api/v1/metrics", None, "read", None),
    ("GET", "/api/v1/events?seconds=0.2", None, "read", None),
    ("GET", "/api/v1/openapi.json", None, "read", None),
]


def where(world: World) -> dict[str, str]:
    service = world.state.hub.all()[0].service
    return {"service": service, "decision": world.journal.decisions(service, before=None, limit=1)[0].id}


@pytest.mark.parametrize("role", [None, *ROLES])
@pytest.mark.parametrize(("method", "path", "body", "least", "model"), ROUTES)
def test_every_route_answers_every_role_as_it_should(
    world: World, role: str | None, method: str, path: str, body: object, least: str, model: type[BaseModel] | None
) -> None:
    headers = {} if role is None else {"authorization": f"Bearer {world.keys[role]}"}
    with httpx.Client(base_url=world.url, headers=headers, timeout=30) as client:
        response = client.request(method, path.format(**where(world)), json=body)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    if role is None:
        assert response.status_code == 401
        assert response.json()["type"] == "urn:harmony:problem:unauthenticated"
        assert response.headers["content-type"] == "application/problem+json"
    elif RANK[role] < RANK[least]:
        assert response.status_code == 403
        assert response.json()["type"] == "urn:harmony:problem:forbidden"
    else:
        assert response.status_code in (200, 201, 202), response.text
        if model is not None:
            # nothing but what the model knows, in the model's own words
            assert model.model_validate(response.json()).model_dump(exclude_none=False) is not None
            assert set(response.json()) <= set(model.model_fields)


def test_every_operation_of_the_document_is_in_the_table_above(world: World) -> None:
    """A route that is added without saying who may use it fails here."""
    listed = {(m, p.partition("?")[0].replace("{service}", "{namespace}/{name}")) for m, p, *_ in ROUTES}
    listed = {(m, p.replace("{decision}", "{decision_id}")) for m, p in listed}
    others = {("GET", "/api/v1/healthz"), ("GET", "/api/v1/jobs/{job_id}"), ("DELETE", "/api/v1/jobs/{job_id}")}
    others |= {("DELETE", "/api/v1/keys/{key_id}")}
    document = world.app.openapi()["paths"]
    there = {(method.upper(), path) for path, methods in document.items() for method in methods}
    assert there == (listed | others) - {("GET", "/api/v1/openapi.json")}


def test_health_is_open_and_tells_when_the_loop_stands_still(world: World) -> None:
    for path in ("/healthz", "/api/v1/healthz"):
        assert models.Health.model_validate(httpx.get(world.url + path, timeout=60).json()).status == "ok"
    world.state.health = lambda: "no tick for 120 s"
    try:
        response = httpx.get(world.url + "/healthz", timeout=60)
        assert (response.status_code, response.json()["problem"]) == (503, "no tick for 120 s")
    finally:
        world.state.health = lambda: ""


def test_health_goes_on_while_decisions_are_not_recorded_and_keeps_the_reason_to_itself(world: World) -> None:
    world.state.notice = lambda: "journal postgresql://db/harmony: the disk is full"
    try:
        response = httpx.get(world.url + "/healthz", timeout=60)
        told = models.Health.model_validate(response.json())
        assert (response.status_code, told.status) == (200, "degraded")
        assert told.problem == "decisions are not being recorded; the log says why"
    finally:
        world.state.notice = lambda: ""


# ---- the fleet --------------------------------------------------------------------------------------------------
def test_fleet_is_filtered_sorted_and_paged_without_loss_or_repetition(world: World) -> None:
    names = [s.service for s in world.state.hub.all()]
    with world.client("read") as client:
        for sort in ("service", "demand", "violation_probability", "gpu_hours_saved", "mode"):
            for order in ("asc", "desc"):
                whole = client.get("/api/v1/services", params={"sort": sort, "order": order}).json()
                values = [row[sort] for row in whole["items"] if row[sort] is not None]
                assert values == sorted(values, reverse=order == "desc")
                absent = [row[sort] is None for row in whole["items"]]
                assert absent == sorted(absent)
                seen, cursor = [], None
                while True:
                    params = {"sort": sort, "order": order, "limit": 2} | ({"cursor": cursor} if cursor else {})
                    page = client.get("/api/v1/services", params=params).json()
                    seen += [row["service"] for row in page["items"]]
                    assert page["total"] == len(names)
                    cursor = page["next_cursor"]
                    if cursor is None:
                        break
                assert seen == [row["service"] for row in whole["items"]]
                assert sorted(seen) == names
        modes = {row["effective_mode"] for row in whole["items"]}
        parts = [client.get("/api/v1/services", params={"mode": m}).json()["items"] for m in modes]
        assert sum(map(len, parts)) == len(names)
        assert client.get("/api/v1/services", params={"search": "no-such-name"}).json()["total"] == 0
        one = names[0].partition("/")
        assert client.get("/api/v1/services", params={"namespace": one[0], "search": one[2]}).json()["total"] >= 1


def test_cursor_that_is_not_ours_is_refused(world: World) -> None:
    with world.client("read") as client:
        for cursor in ("AAAA", "eyJhIjoxfQ", "W10", "x" * 600):
            response = client.get("/api/v1/services", params={"cursor": cursor})
            assert response.status_code == 422, response.text
        page = client.get("/api/v1/services", params={"limit": 1}).json()
        response = client.get("/api/v1/services", params={"cursor": page["next_cursor"], "sort": "demand"})
        assert response.json()["type"] == "urn:harmony:problem:unusable"


def test_decisions_come_newest_first_and_page_by_page(world: World) -> None:
    service = world.state.hub.all()[0].service
    with world.client("read") as client:
        path = f"/api/v1/services/{service}/decisions"
        whole = client.get(path).json()
        assert [d["at"] for d in whole["items"]] == sorted((d["at"] for d in whole["items"]), reverse=True)
        assert len(whole["items"]) == 3
        first = client.get(path, params={"limit": 2}).json()
        rest = client.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
        assert [d["id"] for d in first["items"] + rest["items"]] == [d["id"] for d in whole["items"]]
        assert rest["next_cursor"] is None
        full = client.get(f"/api/v1/decisions/{whole['items'][0]['id']}").json()
        assert len(full["candidates"]) > 1
        assert full["sentence"] == whole["items"][0]["sentence"]


# ---- versions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/api/v1/services", SERVICE, SERVICE + "/forecast", SERVICE + "/forecast?paths=1"])
def test_etag_saves_sending_what_is_known(world: World, path: str) -> None:
    with world.client("read") as client:
        path = path.format(**where(world))
        first = client.get(path)
        etag = first.headers["etag"]
        again = client.get(path, headers={"if-none-match": f'"other", {etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        assert client.get(path, headers={"if-none-match": "*"}).status_code == 304


def test_fast_forecast_is_the_routes_forecast_and_small_answers_are_not_compressed(world: World) -> None:
    with world.client("read") as client:
        path = (SERVICE + "/forecast").format(**where(world))
        fast = client.get(path)
        slow = client.get(path, params={"paths": 0})  # a query is not the fast path's
        assert fast.json() == slow.json()
        assert fast.headers["etag"] == slow.headers["etag"]
        plain = client.get(path, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == fast.content
        big = client.get("/api/v1/services")
        assert big.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in client.get("/api/v1/me").headers


# ---- what if ----------------------------------------------------------------------------------------------------
def test_what_if_without_changes_changes_nothing_and_a_stricter_promise_never_asks_for_less(world: World) -> None:
    with world.client("read") as client:
        for snapshot in world.state.hub.all():
            path = f"/api/v1/services/{snapshot.service}/what-if"
            same = models.WhatIf.model_validate(client.post(path, json={}).json())
            assert same.old == same.new
            strict = models.WhatIf.model_validate(client.post(path, json={"epsilon": 1e-6}).json())
            assert strict.old == same.old
            assert strict.new.replicas >= strict.old.replicas
            capped = models.WhatIf.model_validate(client.post(path, json={"max_replicas": 1, "min_replicas": 0}).json())
            assert capped.new.replicas <= 1
            as_is = models.WhatIf.model_validate(client.post(path, json={"guards": True}).json())
            assert as_is.old.replicas == snapshot.record.decision.replicas  # what the loop itself decided


def test_what_if_that_contradicts_itself_says_so(world: World) -> None:
    path = (SERVICE + "/what-if").format(**where(world))
    with world.client("read") as client:
        response = client.post(path, json={"min_replicas": 50, "max_replicas": 2})
        assert response.json()["type"] == "urn:harmony:problem:unusable"
        assert "50..2" in response.json()["detail"]
        for bad in ({"epsilon": 0}, {"epsilon": "0.1"}, {"epsilonn": 0.1}, {"max_replicas": 1.5}, [], "x"):
            assert client.post(path, json=bad).json()["type"] == "urn:harmony:problem:invalid-request"


# ---- ad-hoc forecasts -------------------------------------------------------------------------------------------
def test_an_absent_demand_costs_its_explanation_and_not_the_forecast_of_the_rest(world: World) -> None:
    absent = HISTORY | {"values": [[None, v] for _, v in HISTORY["values"]]}
    with world.client("read") as client:
        answer = client.post("/api/v1/forecast", json=absent | {"explain": True})
        assert answer.status_code == 200
        found = models.AdHocForecast.model_validate(answer.json())
        assert found.explanation is None
        assert found.explanation_note == "rps is absent all through the window: there is no forecast of it to explain"
        assert found.indicators[0].quantiles["0.5"] == [None] * 4
        assert all(v is not None for v in found.indicators[1].quantiles["0.5"])
        for asked in (HISTORY | {"explain": True}, absent):
            assert client.post("/api/v1/forecast", json=asked).json()["explanation_note"] is None


def test_ad_hoc_forecast_of_a_posted_history(world: World) -> None:
    with world.client("read") as client:
        found = models.AdHocForecast.model_validate(client.post("/api/v1/forecast", json=HISTORY).json())
        assert [i.name for i in found.indicators] == ["rps", "gpu"]
        assert found.origin == "2026-03-01T12:39:00Z"
        one = found.indicators[0]
        assert len(one.quantiles["0.5"]) == 4
        assert one.paths is not None
        assert len(one.paths) == 2
        assert found.explanation is None
        why = models.AdHocForecast.model_validate(
            client.post("/api/v1/forecast", json=HISTORY | {"explain": True}).json()
        ).explanation
        assert why is not None
        assert (why.experts, why.indicators) == ({"last_value": 1.0}, {"rps": 1.0, "gpu": 0.0})
        assert sum(part.share for part in why.past) == pytest.approx(1.0)
        for bad in (
            {**HISTORY, "values": [[1.0]]},
            {**HISTORY, "values": []},
            {**HISTORY, "horizon": 0},
            {**HISTORY, "start": "2026-03-01T12:00:00"},
            {**HISTORY, "start": "20260105"},  # would be a day of 1970
            {**HISTORY, "start": "20260105120000"},  # and one of the year 2612
            {**HISTORY, "start": 20260105},
            {**HISTORY, "start": 1772366400.5},
            {**HISTORY, "indicators": [{"name": "a", "kind": "counter"}], "values": [[5.0], [-1.0]]},
            {**HISTORY, "values": [["1", 2]]},
            {**HISTORY, "indicators": [{"name": "a"}, {"name": "a"}]},
        ):
            response = client.post("/api/v1/forecast", json=bad)
            assert response.status_code == 422, bad
        text = client.post(
            "/api/v1/forecast", content=b'{"indicators":[{"name":"a"}],"step_seconds":60,"values":[[NaN]]}',
            headers={"content-type": "application/json"},
        )  # fmt: skip
        assert text.status_code == 422
        absent = {**HISTORY, "values": [[None, None]] * 5}
        assert client.post("/api/v1/forecast", json=absent).status_code in (200, 422)


def test_an_explanation_of_the_bundled_model_is_answered_whole() -> None:
    t = np.arange(700)
    panel = Panel(10 + 5 * np.sin(t / 20)[:, None], (Indicator("rps"),), 0.0, 60.0)
    told = PostedHistories("base").explain(panel, 4).to_json()
    answered = models.ForecastExplanation.model_validate(told)
    assert answered.beyond_habit is not None
    assert answered.model_dump(mode="json") == json.loads(json.dumps(told))


# ---- jobs -------------------------------------------------------------------------------------------------------
def ended(client: httpx.Client, job_id: str) -> models.Job:
    for _ in range(2400):
        job = models.Job.model_validate(client.get(f"/api/v1/jobs/{job_id}").json())
        if job.state not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def test_job_runs_in_its_own_process_and_its_end_is_told(world: World) -> None:
    import os

    with world.client("operate") as client:
        started = client.post("/api/v1/jobs/backtests", json=BACKTEST)
        assert started.status_code == 202
        done = ended(client, started.json()["id"])
        assert (done.state, done.progress) == ("done", 1.0)
        assert done.result is not None
        assert done.result["rows"] == 300
        assert done.result["pid"] != os.getpid()
        for seed, said in ((1, "too little demand"), (2, "a fault of the server: RuntimeError"), (3, "(9)")):
            job = ended(client, client.post("/api/v1/jobs/backtests", json=BACKTEST | {"seed": seed}).json()["id"])
            assert job.state == "failed"
            assert said in job.error
            assert "hunter2" not in job.error
        listed = models.JobPage.model_validate(client.get("/api/v1/jobs").json())
        assert listed.items[0].result is None
        assert [j.id for j in listed.items][-1] == started.json()["id"] or len(listed.items) > 4


def test_job_is_cancelled_while_it_runs_and_while_it_waits(world: World) -> None:
    with world.client("operate") as client:
        running = client.post("/api/v1/jobs/backtests", json=BACKTEST | {"seed": 4}).json()["id"]
        waiting = client.post("/api/v1/jobs/backtests", json=BACKTEST | {"seed": 4}).json()["id"]
        for _ in range(2400):
            job = client.get(f"/api/v1/jobs/{running}").json()
            if job["note"] == "a quarter":
                break
            time.sleep(0.05)
        assert (job["progress"], job["state"]) == (0.25, "running")
        assert client.delete(f"/api/v1/jobs/{waiting}").json()["state"] == "cancelled"
        assert client.delete(f"/api/v1/jobs/{running}").json()["state"] == "cancelled"
        assert client.delete(f"/api/v1/jobs/{running}").json()["state"] == "cancelled"
        assert client.delete("/api/v1/jobs/0000000000000000").status_code == 404


# ---- keys and audit ---------------------------------------------------------------------------------------------
def test_key_is_shown_once_works_at_once_and_ends_at_once_when_revoked(world: World) -> None:
    with world.client("admin") as client:
        made = models.NewKeyAnswer.model_validate(
            client.post("/api/v1/keys", json={"name": "ci", "role": "operate"}).json()
        )
        me = httpx.get(world.url + "/api/v1/me", headers={"x-api-key": made.key}, timeout=60).json()
        assert (me["id"], me["role"]) == (f"key:{made.id}", "operate")
        listed = client.get("/api/v1/keys").text
        assert made.id in listed
        assert made.key.rpartition("_")[2] not in listed
        assert client.delete(f"/api/v1/keys/{made.id}").status_code == 204
        assert httpx.get(world.url + "/api/v1/me", headers={"x-api-key": made.key}, timeout=60).status_code == 401
        assert client.delete(f"/api/v1/keys/{made.id}").status_code == 404
        actions = [(a["action"], a["detail"].get("id")) for a in client.get("/api/v1/audit").json()["items"]]
        assert actions[:2] == [("keys.revoke", made.id), ("keys.create", made.id)]
        assert made.key.rpartition("_")[2] not in client.get("/api/v1/audit").text


def test_a_budget_of_gpus_is_set_by_its_entry_in_the_audit(world: World) -> None:
    with world.client("operate") as client, world.client("admin") as admin:
        assert client.put("/api/v1/gpu-budget", json={"gpus": 12}).json()["gpus"] == 12
        told = client.get("/api/v1/gpu-budget").json()
        newest = admin.get("/api/v1/audit").json()["items"][0]
        assert (newest["action"], newest["detail"], newest["actor"]) == ("gpu-budget.set", {"gpus": 12}, told["set_by"])
        assert (told["gpus"], told["given"], told["at"]) == (12, 20, newest["at"])
        assert client.put("/api/v1/gpu-budget", json={"gpus": -1}).status_code == 422
        world.state.gpu_budget = 0
        try:
            assert client.put("/api/v1/gpu-budget", json={"gpus": 1}).status_code == 503
            assert "--gpu-budget" in client.get("/api/v1/gpu-budget").json()["detail"]
        finally:
            world.state.gpu_budget = 20


def test_what_cannot_be_audited_is_not_done(world: World) -> None:
    with world.client("admin") as client:
        before = len(world.journal.keys())
        client.get("/api/v1/me")  # keys are known
        world.journal.broken = True
        try:
            response = client.post("/api/v1/keys", json={"name": "ci"})
            assert response.status_code == 503
            assert response.json()["type"] == "urn:harmony:problem:unavailable"
            assert "retry-after" in response.headers
            assert "disk" not in response.text
            jobs = len(world.state.jobs.all()) if world.state.jobs else 0
            assert client.post("/api/v1/jobs/backtests", json=BACKTEST).status_code == 503
            assert len(world.state.jobs.all() if world.state.jobs else []) == jobs
            assert client.get("/api/v1/services").status_code == 200  # what needs no journal goes on
        finally:
            world.journal.broken = False
        assert len(world.journal.keys()) == before


# ---- errors -----------------------------------------------------------------------------------------------------
def test_errors_are_problem_details_with_a_stable_type(world: World) -> None:
    with world.client("admin") as client:
        cases = [
            (client.get("/api/v1/nothing"), 404, "not-found"),
            (client.get("/api/v1/services/a/b"), 404, "not-found"),
            (client.delete("/api/v1/services"), 405, "method-not-allowed"),
            (client.put("/api/v1/keys/0123456789ab"), 405, "method-not-allowed"),
            (client.get("/api/v1/services?limit=0"), 422, "invalid-request"),
            (client.post("/api/v1/forecast", content=b"{"), 415, "unsupported-media-type"),
            (client.post("/api/v1/forecast", content=b"{", headers=JSON), 422, "invalid-request"),
            (client.post("/api/v1/forecast", content=b'{"a": "\xff"}', headers=JSON), 400, "bad-request"),
            (client.get("/api/v1/services/"), 404, "not-found"),
        ]
    for response, status, slug in cases:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body = models.ProblemDetails.model_validate(response.json())
        assert (body.type, body.status) == (f"urn:harmony:problem:{slug}", status)
    assert cases[2][0].headers["allow"] == "GET"
    assert cases[3][0].headers["allow"] == "DELETE"


JSON = {"content-type": "application/json"}


def test_metrics_are_prometheus_text(world: World) -> None:
    with world.client("read") as client:
        for path in ("/api/v1/metrics", "/metrics"):
            response = client.get(path)
            assert response.headers["content-type"].startswith("text/plain")
            assert "harmony_" in response.text


def test_the_reference_names_every_operation_and_fetches_nothing(world: World) -> None:
    with world.client("read") as client:
        page = client.get("/docs").text
        document = client.get("/api/v1/openapi.json").json()
    told = [(method, path) for path, operations in document["paths"].items() for method in operations]
    assert len(told) > 15
    assert all(f"<code>{method.upper()} {path}</code>" in page for method, path in told)
    assert "<script" not in page
    assert "src=" not in page
    with httpx.Client(base_url=world.url, timeout=30) as stranger:
        assert {stranger.get(path).status_code for path in ("/docs", "/metrics")} == {401}


@dataclass(frozen=True)
class Copycat(StaticPolicy):
    """A policy that no other file has heard of."""

    name: str = "copycat"


def test_a_policy_is_known_to_the_api_by_standing_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"demand": BACKTEST["demand"], "policies": ["copycat"]}
    with pytest.raises(ValidationError, match="known: harmony, hpa"):
        models.BacktestRequest.model_validate(asked)
    monkeypatch.setitem(registry.POLICIES, "copycat", Copycat)
    request = models.BacktestRequest.model_validate(asked)
    assert "copycat" in models.BacktestRequest.model_json_schema()["properties"]["policies"]["items"]["enum"]
    result = work("backtest", request.model_dump(), lambda done, total, note: None)
    assert set(result["policies"]) == {"copycat"}
