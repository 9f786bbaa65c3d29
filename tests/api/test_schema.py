"""Generated requests against the OpenAPI document: every answer conforms, none is a fault of the server.

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

OPERATIONS = 21  # those of the document but the endless stream of events
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
    for found in document.exclude(path="/api/v1/events").get_all_operations():
        operation = found.ok()
        _ask(operation.as_strategy(), headers, served, asked)
        if operation.body or operation.query or operation.path_parameters:
            wrong = schemathesis.GenerationMode.NEGATIVE
            _ask(operation.as_strategy(generation_mode=wrong), headers, served, asked)
    assert len(asked) == OPERATIONS
    assert asked.total() >= CASES
    sys.stdout.write(f"\n{asked.total()} generated requests: {dict(asked)}\n")


def _ask(strategy: Any, headers: dict[str, str], served: World, asked: Counter[str]) -> None:
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
        if there_is_one and case.meta is not None and case.meta.generation.mode.is_positive:
            _name_what_there_is(case, served)
        case.call_and_validate(headers=headers, checks=CHECKED)

    ask()


def _name_what_there_is(case: schemathesis.Case, served: World) -> None:
    """Put the name of a service or decision that exists into the path."""
    snapshots = served.state.hub.all()
    service = snapshots[len(str(case.query)) % len(snapshots)]
    if "{namespace}" in case.operation.path:
        case.path_parameters = {"namespace": service.namespace, "name": service.name}
    elif "{decision_id}" in case.operation.path:
        one = served.journal.decisions(service.service, before=None, limit=1)[0]
        case.path_parameters = {"decision_id": one.id}
