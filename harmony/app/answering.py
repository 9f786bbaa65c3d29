"""The API's ports beside the loop: explanations, forecasts of posted histories, model cards, whose a token is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecasting.distribution import ForecastDistribution
    from forecasting.explaining import Explanation
    from forecasting.forecaster import Forecaster
    from forecasting.panel import Panel
    from harmony.api.ports import ExplainPort, ModelsPort, TokenReviewer, TokenUser
    from harmony.journal import JournalStore

__all__ = ["PostedHistories", "explainer", "model_cards", "token_reviewer"]


def explainer(store: JournalStore) -> ExplainPort:
    """Decisions recomputed from the journal."""
    from harmony.journal import explain

    def port(decision_id: str) -> Mapping[str, Any] | None:
        found = explain(store, decision_id)
        return None if found is None else found.to_json()

    return port


class PostedHistories:
    """Joint forecasts of posted histories, and what moved them; the model is loaded with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: Forecaster | None = None

    def forecast(self, panel: Panel, horizon: int, samples: int) -> ForecastDistribution:
        """From the last row on."""
        from forecasting.fleet import forecast_rows

        return forecast_rows(self._model(), panel, [len(panel) - 1], horizon, samples=samples)[0]

    def explain(self, panel: Panel, horizon: int) -> Explanation:
        """What moved that of the first indicator."""
        return self._model().explain(panel, horizon)

    def _model(self) -> Forecaster:
        from forecasting.refreshing import shared_model

        if self._held is None:
            self._held = shared_model(self._name)
        return self._held


def model_cards(name: str) -> ModelsPort:
    """The model in use, and the methods that need none."""

    def cards() -> Sequence[Mapping[str, Any]]:
        from forecasting.methods import OWN_METHODS, method_names, method_summary
        from forecasting.refreshing import QUICK, shared_model

        model = shared_model(name)
        own = {
            "name": "base" if name in QUICK else name,
            "version": model.version,
            "kind": "flow",
            "in_use": True,
            "description": "Hierarchical attention with a normalizing flow: joint forecasts of all indicators.",
            "lookback": model.config.lookback,
            "horizon": model.config.horizon,
            "parameters": model.parameters,
        }
        fitted = [
            {
                "name": method,
                "version": "fitted",
                "kind": "baseline",
                "in_use": False,
                "description": f"For backtests: {method_summary(method)}",
            }
            for method in method_names()
            if method not in OWN_METHODS
        ]
        return [own, *fitted]

    return cards


def token_reviewer(kubeconfig: str, context: str) -> TokenReviewer:
    """Asks the API server whose a token is (authentication.k8s.io/v1 TokenReview)."""
    from controller.kube.client import Kube
    from controller.kube.resources import TOKEN_REVIEWS
    from harmony.api.ports import TokenUser as User

    asked = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind, "metadata": {}}

    async def review(token: str) -> TokenUser | None:
        # A connection for each: tokens are reviewed once a minute at most, and our own credentials are read anew.
        async with await Kube.connect(kubeconfig or None, context or None) as kube:
            answer = await kube.create(TOKEN_REVIEWS, asked | {"spec": {"token": token}})
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return User(str(user.get("username", "")), tuple(map(str, user.get("groups") or ())))

    return review
