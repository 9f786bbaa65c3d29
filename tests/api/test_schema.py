"""Generated requests against the OpenAPI document: every answer conforms, none is a fault of the server.

Every operation is reached: some of its requests are about what there is, and succeed.

About 300 requests here; `HARMONY_API_CASES=2000` (`make test-api`) sets another number.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from harmony.api.app import create_app
from tests.api.conftest import World, make_state
from tests.api.serving import key_for, serving

OPERATIONS = 24
CASES = int(os.environ.get("HARMONY_API_CASES", "300"))
PER_OPERATION = -(-CASES // OPERATIONS)  # well-formed ones, and as many again that are wrong on purpose

# A body may fit its schema and still contradict itself (rows of another width than there are indicators, bounds of the
# wrong order), which JSON schema cannot say; such requests are refused with 422.
LEFT_OUT = ("positive_data_acceptance",)
schemathesis.checks.load_all_checks()
CHECKED = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[World]:
    """A server of its own: keys and jobs that are made here are nobody else's."""
    state = make_state(world.state.hub, world.journal)
    key = key_for(world.journal, "admin")
    with serving(create_app(state)) as url:
        yield World(url, world.app, state, world.journal, {"admin": key})


@pytest.mark.slow
def test_every_answer_to_generated_requests_conforms(served: World) -> None:
    headers = {"X-API-Key": served.keys["admin"]}
    document = schemathesis.openapi.from_url(f"{served.url}/api/v1/openapi.json", headers=headers)
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for found in document.get_all_operations():
        operation = found.ok()
        _ask(operation.as_strategy(), headers, served, asked, answered)
        if operation.body or operation.query or operation.path_parameters:
            wrong = schemathesis.GenerationMode.NEGATIVE
            _ask(operation.as_strategy(generation_mode=wrong), headers, served, asked, answered)
    assert len(asked) == OPERATIONS
    assert set(asked) - set(answered) == set()
    assert asked.total() >= CASES
    sys.stdout.write(f"\n{asked.total()} generated requests: {dict(asked)}\n")


def _ask(strategy: Any, headers: dict[str, str], served: World, asked: Counter[str], answered: Counter[str]) -> None:
    @settings(
        max_examples=PER_OPERATION,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, there_is_one=st.booleans())
    def ask(case: schemathesis.Case, there_is_one: bool) -> None:
        asked[case.operation.label] += 1
        for name in ("Authorization", "X-API-Key", "Cookie"):  # they would keep the request from its operation
            case.headers.pop(name, None)
        is_positive = case.meta is not None and case.meta.generation.mode.is_positive
        if is_positive and (there_is_one or case.operation.label not in answered):
            _name_what_there_is(case, served)
        if case.operation.path.endswith("/events") and is_positive:
            case.query["seconds"] = 0.01  # an hour by default
        answer = case.call_and_validate(headers=headers, checks=CHECKED)
        if answer.status_code < 300:
            answered[case.operation.label] += 1

    ask()


def _name_what_there_is(case: schemathesis.Case, served: World) -> None:
    """Put the name of something that exists into the path; make a history as wide as its indicators are many."""
    if case.operation.path.endswith("/forecast") and case.method == "POST":
        body: Any = case.body
        for at, indicator in enumerate(body["indicators"]):
            indicator["name"] = f"i{at}"
        body["values"] = [(row + [None] * len(body["indicators"]))[: len(body["indicators"])] for row in body["values"]]
        body["values"] = (body["values"] * 4)[:4096]
        body |= {"start": None, "samples": 10, "horizon": 1, "paths": 0}  # 1.0 is whole in JSON schema, not here
    snapshots = served.state.hub.all()
    service = snapshots[len(str(case.query)) % len(snapshots)]
    if "{namespace}" in case.operation.path:
        case.path_parameters = {"namespace": service.namespace, "name": service.name}
    elif "{decision_id}" in case.operation.path:
        one = served.journal.decisions(service.service, before=None, limit=1)[0]
        case.path_parameters = {"decision_id": one.id}
    elif "{key_id}" in case.operation.path:
        case.path_parameters = {"key_id": key_for(served.journal, "read").split("_")[1]}
    elif "{job_id}" in case.operation.path:
        assert served.state.jobs is not None
        known = served.state.jobs.all() or [served.state.jobs.start("backtest", {"demand": [], "seed": 0}, "me")]
        case.path_parameters = {"job_id": known[0].id}
