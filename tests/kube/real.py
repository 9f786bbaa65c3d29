"""The real etcd and kube-apiserver (and controller manager and scheduler, if there) from `KUBEBUILDER_ASSETS`."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from .api import HARNESS_AGENT, ApiServer, Call, Json, User
from .rbac import allows

_USERS: Final[dict[str, User]] = {"harmony-controller": "controller", "harmony-admin": "admin"}
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": list(_USERS)}, {"level": "None"}],
}
_ROLE = "harmony-tests"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
START_WITHIN_S = 60.0


def real_assets() -> Path | None:
    """The folder with the binaries, None where there is none."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        return None
    folder = Path(named)
    return folder if all((folder / name).exists() for name in ("etcd", "kube-apiserver")) else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


class RealApiServer(ApiServer):
    """etcd and kube-apiserver on loopback, in a temporary folder that is removed by `stop`."""

    real = True

    def __init__(self, assets: Path) -> None:
        self._assets = assets
        self._folder = Path(tempfile.mkdtemp(prefix="kube-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._audit = self._folder / "audit.log"
        self._audit_start = 0
        self._roles: list[str] = []
        self.tokens = {"controller": "controller-token", "admin": "admin-token"}
        self.runs_controllers = (assets / "kube-controller-manager").exists()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        folder, port, etcd, peer = self._folder, _free_port(), _free_port(), _free_port()
        self.ca_file = folder / "tls.crt"
        self.url = f"https://127.0.0.1:{port}"
        self._write_files()
        self._run(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={folder / 'tls.crt'}",
            f"--tls-private-key-file={folder / 'tls.key'}",
            f"--client-ca-file={folder / 'tls.crt'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={folder / 'audit.json'}",
            f"--audit-log-path={self._audit}",
            "--audit-log-mode=blocking-strict",
        )
        self._await_ready()
        self.enforce(None)
        self._start_controllers()
        self.clear_calls()

    def _write_files(self) -> None:
        folder = self._folder
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kube-apiserver"),
            *("-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:TRUE"),
            *("-keyout", folder / "tls.key", "-out", folder / "tls.crt"),
        )
        _openssl("genrsa", "-out", folder / "sa.key", "2048")
        _openssl("rsa", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")
        lines = ["admin-token,harmony-admin,1,system:masters", "controller-token,harmony-controller,2"]
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        (folder / "audit.json").write_text(json.dumps(_AUDIT_POLICY))

    def _run(self, name: str, *flags: str) -> None:
        log = (self._folder / f"{name}.log").open("wb")
        with log:
            process = subprocess.Popen([self._assets / name, *flags], stdout=log, stderr=log, cwd=self._folder)
        self._processes.append(process)

    def _start_controllers(self) -> None:
        config = self.kubeconfig(self._folder / "admin.kubeconfig", user="admin")
        common = (f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0")
        if self.runs_controllers:
            key = f"--service-account-private-key-file={self._folder / 'sa.key'}"
            self._run("kube-controller-manager", *common, key)
        if (self._assets / "kube-scheduler").exists():
            self._run("kube-scheduler", *common)

    def _await_ready(self) -> None:
        until = time.monotonic() + START_WITHIN_S
        while time.monotonic() < until:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args!r}: ended with {process.returncode}: {self._last_words()}")
            try:
                ready = self.request("GET", "/readyz")[0] == 200
                if ready and self.request("GET", "/api/v1/namespaces/default")[0] == 200:
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.1)
        raise RuntimeError(f"kube-apiserver not ready within {START_WITHIN_S:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(self._folder.glob("*.log")))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- what the controller may do

    def enforce(self, rules: Sequence[Json] | None) -> None:
        for path in self._roles:
            self.request("DELETE", path)
        self._roles.clear()
        everywhere = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        for index, rule in enumerate([everywhere] if rules is None else rules):
            bare = {key: value for key, value in rule.items() if key != "namespaces"}
            for namespace in rule.get("namespaces") or [""]:
                self._grant(f"{_ROLE}-{index}", namespace, bare)
        self._await_rules(rules)

    def _await_rules(self, rules: Sequence[Json] | None) -> None:
        """The authoriser learns of roles by a watch of its own: waits until what no rule names is as it should be."""
        asked = {"verb": "get", "group": "harmony.invalid", "resource": "probes"}
        review: Json = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        review["spec"] = {"resourceAttributes": asked}
        expected = rules is None or allows(rules, **asked)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            _, answer = self.request("POST", path, review, user="controller")
            if answer["status"]["allowed"] == expected:
                return
            time.sleep(0.05)
        raise RuntimeError("the new roles did not take effect within 10 s")

    def _grant(self, name: str, namespace: str, rule: Json) -> None:
        kind = "Role" if namespace else "ClusterRole"
        base = f"{_RBAC}/namespaces/{namespace}/roles" if namespace else f"{_RBAC}/clusterroles"
        bindings = base.removesuffix("s") + "bindings"
        metadata = {"name": name}
        version = "rbac.authorization.k8s.io/v1"
        subject = {"kind": "User", "name": "harmony-controller", "apiGroup": "rbac.authorization.k8s.io"}
        reference = {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        self.must("POST", base, {"apiVersion": version, "kind": kind, "metadata": metadata, "rules": [rule]})
        binding = {"roleRef": reference, "subjects": [subject]}
        self.must("POST", bindings, {"apiVersion": version, "kind": f"{kind}Binding", "metadata": metadata} | binding)
        self._roles += [f"{base}/{name}", f"{bindings}/{name}"]

    # ---- what was asked

    @property
    def calls(self) -> list[Call]:
        return list(self._read_audit())

    def clear_calls(self) -> None:
        self._audit_start = self._audit.stat().st_size if self._audit.exists() else 0

    def _read_audit(self) -> Iterator[Call]:
        if not self._audit.exists():
            return
        with self._audit.open("rb") as log:
            log.seek(self._audit_start)
            for text in log:
                if text.endswith(b"\n") and (call := _call(json.loads(text))) is not None:
                    yield call


def _call(event: dict[str, Any]) -> Call | None:
    """The call of an audit event: at the start of a watch, at the end of anything else."""
    if event["stage"] != ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"):
        return None
    user = _USERS.get(event["user"]["username"])
    about = event.get("objectRef")
    if user is None or about is None or event.get("userAgent") == "":
        return None
    received = datetime.datetime.fromisoformat(event["requestReceivedTimestamp"].replace("Z", "+00:00"))
    return Call(
        verb=event["verb"],
        group=about.get("apiGroup", ""),
        version=about.get("apiVersion", ""),
        resource=about.get("resource", ""),
        subresource=about.get("subresource", ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        user_agent=event.get("userAgent", HARNESS_AGENT),
        code=(event.get("responseStatus") or {}).get("code", 0),
        at=received.timestamp(),
        user=user,
    )
