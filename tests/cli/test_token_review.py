"""`--token-review`: what is asked of the Kubernetes API server about a token, and what its answers mean."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from forecasting.errors import HarmonyError
from harmony.api.ports import TokenUser
from harmony.app.answering import token_reviewer
from tests.controller.kube.scripted import serving, status, write_kubeconfig

KNOWN = {"good": {"username": "ann", "groups": ["devs", "system:authenticated"]}, "bare": {"username": "bob"}}


def reviewed(folder: Path, *tokens: str, broken: bool = False) -> tuple[list[TokenUser | None], list[dict[str, Any]]]:
    """What is said of each token, and what was sent."""
    sent: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        review = await request.json()
        sent.append({"method": request.method, "path": request.path} | review)
        if broken:
            return status(403, "Forbidden", "tokenreviews is forbidden")
        user = KNOWN.get(review["spec"]["token"])
        found = {"authenticated": user is not None} | ({} if user is None else {"user": user})
        return web.json_response(review | {"status": found}, status=201)

    async def ask() -> list[TokenUser | None]:
        async with serving(answer) as url:
            review = token_reviewer(str(write_kubeconfig(folder / "kubeconfig", url)), "")
            return [await review(token) for token in tokens]

    return asyncio.run(ask()), sent


def test_a_token_is_whose_the_api_server_says(tmp_path: Path) -> None:
    users, sent = reviewed(tmp_path, "good", "bare", "stolen")
    assert users == [TokenUser("ann", ("devs", "system:authenticated")), TokenUser("bob", ()), None]
    assert {(one["method"], one["path"]) for one in sent} == {("POST", "/apis/authentication.k8s.io/v1/tokenreviews")}
    assert [one["spec"] for one in sent] == [{"token": token} for token in ("good", "bare", "stolen")]
    assert {(one["apiVersion"], one["kind"]) for one in sent} == {("authentication.k8s.io/v1", "TokenReview")}


def test_an_api_server_that_refuses_is_trouble_and_no_answer(tmp_path: Path) -> None:
    with pytest.raises(HarmonyError) as told:
        reviewed(tmp_path, "good", broken=True)
    assert "good" not in str(told.value)
