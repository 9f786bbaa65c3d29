"""The list of policies: each answers to its name, says what it is, and forecasts with what was named."""

from __future__ import annotations

import pytest

from forecasting.errors import UsageError
from harmony.policies.registry import create_policy, policy_names, policy_summary


@pytest.mark.parametrize("name", policy_names(further=True))
def test_every_policy_answers_to_its_name_and_says_in_a_sentence_what_it_is(name: str) -> None:
    assert create_policy(name).name == name
    assert policy_summary(name).endswith(".")
    assert "\n" not in policy_summary(name)


@pytest.mark.parametrize("name", policy_names(further=True))
def test_the_forecaster_named_is_taken_by_those_that_have_one_to_set(name: str) -> None:
    policy = create_policy(name, "ridge")
    assert (policy.forecaster == "ridge") == ("forecaster" in policy.settings)


def test_an_unknown_policy_is_answered_with_near_ones() -> None:
    for ask in (create_policy, policy_summary):
        with pytest.raises(UsageError, match=r"no policy 'harmoni'; did you mean 'harmony'"):
            ask("harmoni")
