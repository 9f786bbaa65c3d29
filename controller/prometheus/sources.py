"""`Sources`: the Prometheus servers of all services, one connection pool each, and feeds that read from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from controller.process.settings import PrometheusSettings
from controller.prometheus.client import Prometheus
from controller.prometheus.feed import Feed, QueriedIndicator
from controller.prometheus.history import History
from controller.prometheus.together import Together
from forecasting.base import LOOKBACK
from forecasting.errors import UsageError

__all__ = ["Sources", "Watched"]


class Watched(Protocol):
    """What must be known of a service to read its indicators."""

    @property
    def queries(self) -> Sequence[QueriedIndicator]:
        """The indicators with their PromQL, the demand first."""
        ...

    @property
    def step_s(self) -> float:
        """Grid of the history, seconds."""
        ...

    @property
    def prometheus_url(self) -> str:
        """Base URL; empty for the controller's own."""
        ...


class Sources:
    """Gives each service the Prometheus it names, or the controller's own.

    Token, headers, certificates, proxy and query parameters are the controller's own and are only ever used with the
    controller's own address: an object must not be able to have credentials sent to a server of its choice.
    """

    def __init__(
        self, settings: PrometheusSettings, monotonic: Callable[[], float], *, lookback: int = LOOKBACK
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lookback = lookback
        self._by_url: dict[str, Prometheus] = {}
        self.together = Together()

    def feed(self, settings: Watched) -> Feed:
        """A reader for the service; raises `UsageError` if no Prometheus is named anywhere."""
        history = History([q.indicator for q in settings.queries], settings.step_s, self._lookback)
        return Feed(self.prometheus(settings.prometheus_url), settings.queries, history)

    def prometheus(self, url: str = "") -> Prometheus:
        """The client for an address (empty: the controller's own)."""
        own = not url or url.rstrip("/") == self._settings.url.rstrip("/")
        url = url or self._settings.url
        if not url:
            raise UsageError("no Prometheus: set spec.prometheus.url, or start the controller with --prometheus-url")
        found = self._by_url.get(url)
        if found is None:
            s = self._settings
            if not own:
                s = PrometheusSettings(timeout_s=s.timeout_s)
            found = self._by_url[url] = Prometheus(
                url,
                token_file=s.token_file,
                ca_file=s.ca_file,
                params=s.params,
                timeout_s=s.timeout_s,
                headers=s.headers,
                cert_file=s.cert_file,
                key_file=s.key_file,
                proxy=s.proxy,
                monotonic=self._monotonic,
            )
        return found

    @property
    def requests(self) -> int:
        """Requests sent so far, to all servers."""
        return sum(prometheus.requests for prometheus in self._by_url.values())

    async def close(self) -> None:
        """Give up all connections."""
        for prometheus in self._by_url.values():
            await prometheus.close()
