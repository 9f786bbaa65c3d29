"""What tests see of an API server, fake or real."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

Json = dict[str, Any]
User = Literal["controller", "admin"]
HARNESS_AGENT = "harmony-tests"


@dataclass(frozen=True, slots=True)
class Call:
    """One answered request in RBAC words; code 0 = no answer was given, `at` in seconds on the server's own axis."""

    verb: str
    group: str
    version: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user_agent: str
    code: int
    at: float
    user: str = "controller"


class ApiServer(ABC):
    """A running API server. Two users: `controller` (what is tested, may be restricted) and `admin` (the test)."""

    url: str
    tokens: dict[User, str]
    ca_file: Path | None = None
    real = False
    runs_controllers = False  # whether Deployments make pods by themselves

    @property
    @abstractmethod
    def calls(self) -> list[Call]:
        """Every request answered since the start or the last `clear_calls`, in order."""

    @abstractmethod
    def clear_calls(self) -> None:
        """Forgets the calls so far."""

    @abstractmethod
    def enforce(self, rules: Sequence[Json] | None) -> None:
        """The controller may do only what these PolicyRules allow; None allows everything."""

    @abstractmethod
    def stop(self) -> None:
        """Stops the server; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def calls_by(self, user: User = "controller") -> list[Call]:
        return [call for call in self.calls if call.user == user]

    def kubeconfig(self, path: Path, user: User = "controller", namespace: str = "default") -> Path:
        """Writes a kubeconfig (JSON, which is YAML) and returns its path."""
        cluster: Json = {"server": self.url}
        if self.ca_file is not None:
            cluster["certificate-authority"] = str(self.ca_file)
        context = {"cluster": "test", "user": user, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config, indent=1))
        return path

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: User = "admin",
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One plain request by the test itself: status code and parsed JSON (or text, where it is none)."""
        connection = self._connection()
        try:
            answer = self._send(connection, method, path, body, user, content_type, headers)
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if answer.headers.get_content_type() == "application/json" else text

    def watch(self, path: str, count: int, *, user: User = "admin", within_s: int = 10) -> list[Json]:
        """The first `count` events of a watch, or those that came within the time; `path` carries the query."""
        connection = self._connection()
        joint = "&" if "?" in path else "?"
        events: list[Json] = []
        try:
            path = f"{path}{joint}watch=true&timeoutSeconds={within_s}"
            answer = self._send(connection, "GET", path, None, user, None, None)
            if answer.status != 200:
                return [{"type": "REFUSED", "object": json.loads(answer.read())}]
            rest = b""
            # read1, because readline takes a cut stream for an ended one
            while len(events) < count and (chunk := answer.read1()):
                *lines, rest = (rest + chunk).split(b"\n")
                events += [json.loads(text) for text in lines]
        finally:
            connection.close()
        return events[:count]

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any,
        user: User,
        content_type: str | None,
        headers: Mapping[str, str] | None,
    ) -> http.client.HTTPResponse:
        kind = content_type or ("application/merge-patch+json" if method == "PATCH" else "application/json")
        sent = {"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": kind, "User-Agent": HARNESS_AGENT}
        payload = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        connection.request(method, path, payload, sent | dict(headers or {}))
        return connection.getresponse()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca_file)
            return http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=30)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def must(self, method: str, path: str, body: Any = None, *, content_type: str | None = None) -> Any:
        """As `request`, but anything else than success is an AssertionError."""
        code, answer = self.request(method, path, body, content_type=content_type)
        assert 200 <= code < 300, f"{method} {path}: {code} {answer}"
        return answer

    def define(self, crd: Json) -> None:
        """Installs a definition and waits until its objects are served: a moment later, on a real server."""
        self.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        for version in crd["spec"]["versions"]:
            if version.get("served"):
                self.until_served(f"/apis/{group}/{version['name']}/{plural}")

    def until_served(self, path: str) -> None:
        """Waits until a resource can be listed."""
        until = time.monotonic() + 20
        while self.request("GET", path)[0] != 200:
            assert time.monotonic() < until, path
            time.sleep(0.01)

    def ensure_namespace(self, name: str) -> None:
        """Creates the namespace unless it exists."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        code, answer = self.request("POST", "/api/v1/namespaces", namespace)
        assert code in (201, 409), answer
