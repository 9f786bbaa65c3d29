"""`harmony controller`, `harmony doctor`, `harmony recommend`: the cluster from the command line."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.process.settings import (
    ActingSettings,
    ControllerSettings,
    ForecasterSettings,
    KubernetesSettings,
    PrometheusSettings,
    WatchSettings,
)
from harmony.cli.extras import needing
from harmony.cli.options import with_settings

if TYPE_CHECKING:
    from controller.doctor import Finding

__all__ = ["controller", "doctor", "recommend"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@with_settings
@needing("controller")
def controller(
    settings: ControllerSettings = ControllerSettings(),
    journal: Annotated[
        str, typer.Option(envvar="HARMONY_JOURNAL", help="File that gets every turn as a line of JSON.")
    ] = "",
) -> int:
    """Run the Kubernetes controller until it is stopped.

    Examples:
    `harmony controller --prometheus-url http://prometheus.monitoring:9090`

    `harmony controller --kubeconfig ~/.kube/config --namespace serving --dry-run --log-format text`
    """
    from controller.process.logs import configure
    from controller.runner import run_controller

    configure(settings.log_format, settings.log_level)
    asyncio.run(run_controller(dataclasses.replace(settings, journal=journal)))
    return 0


@with_settings
@needing("controller")
def doctor(
    prometheus: PrometheusSettings = PrometheusSettings(),
    watch: WatchSettings = WatchSettings(),
    acting: ActingSettings = ActingSettings(),
    token_review: Annotated[
        bool,
        typer.Option(
            "--token-review", envvar="HARMONY_TOKEN_REVIEW", help="Look at what `harmony serve` needs for it."
        ),
    ] = False,
    kubernetes: KubernetesSettings = KubernetesSettings(),
    as_json: AsJson = False,
) -> int:
    """Check what this installation can reach, what it may do, and how its objects stand; exit 1 if anything failed.

    Example:
    `harmony doctor --prometheus-url http://prometheus.monitoring:9090`
    """
    from controller.doctor import examine

    settings = ControllerSettings.of(prometheus, watch, acting, kubernetes)
    findings = asyncio.run(_collect(examine(settings, token_review=token_review), as_json))
    failed = sum(f.verdict == "failed" for f in findings)
    warnings = sum(f.verdict == "warning" for f in findings)
    if as_json:
        print(json.dumps({"findings": [dataclasses.asdict(f) for f in findings], "failed": failed}, indent=2))
    else:
        print(f"\n{failed} failed, {warnings} warnings, {len(findings) - failed - warnings} in order")
    return 1 if failed else 0


async def _collect(findings: AsyncIterator[Finding], silent: bool) -> list[Finding]:
    """All findings, printed as they come."""
    signs = {"ok": "[ok]     ", "warning": "[warning]", "failed": "[FAILED] "}
    out = []
    async for finding in findings:
        out.append(finding)
        if not silent:
            print(f"{signs[finding.verdict]} {finding.about}: {finding.text}")
            if finding.cure:
                print(f"            -> {finding.cure}")
    return out


@with_settings
@needing("controller")
def recommend(
    name: Annotated[
        str, typer.Argument(help="A GPUAutoscaler, or an annotated HorizontalPodAutoscaler or ScaledObject.")
    ] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A GPUAutoscaler manifest that is not applied (yet).")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=0, help="With --file: ask no cluster, and decide as if so many replicas were ready."),
    ] = None,
    prometheus: PrometheusSettings = PrometheusSettings(),
    kubernetes: KubernetesSettings = KubernetesSettings(),
    model: ForecasterSettings = ForecasterSettings(),
    as_json: AsJson = False,
) -> int:
    """Make one decision for a service and print it with its reasons; nothing in the cluster is touched.

    Examples:
    `harmony recommend chat -n serving --prometheus-url http://localhost:9090`

    `harmony recommend -f chat-autoscaler.yaml --prometheus-url http://localhost:9090 --json`

    `harmony recommend -f chat-autoscaler.yaml --replicas 8 --prometheus-url http://localhost:9090`
    """
    from controller.recommending import recommend as run_recommend
    from forecasting.errors import UsageError

    given = None if file is None else _manifest(file, namespace)
    if given is not None:
        meta = given["metadata"]
        name, namespace = name or meta["name"], meta["namespace"]
    if replicas is not None and given is None:
        raise UsageError("--replicas stands for a cluster that is not asked: add --file with the manifest")
    if not name:
        raise UsageError("recommend needs the NAME of an object, or a manifest with --file")
    settings = ControllerSettings.of(prometheus, kubernetes, model, WatchSettings(namespaces=(namespace,)))
    status = asyncio.run(
        run_recommend(
            settings,
            namespace,
            name,
            given,
            replicas=replicas,
            note=lambda said: print(f"note: {said}", file=sys.stderr),
        )
    )
    if as_json:
        print(json.dumps(status, indent=2))
    else:
        _show(name, namespace, status)
    return 0 if "lastScaleDecision" in status else 1


def _manifest(path: Path, namespace: str) -> dict[str, Any]:
    """The first GPUAutoscaler of a YAML file, with a namespace and a uid to go by."""
    import yaml

    from forecasting.errors import DataError
    from harmony.app.written import loader

    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), loader()))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a YAML file with a GPUAutoscaler") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise DataError(f"{path}: not YAML ({first})") from None
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "GPUAutoscaler":
            meta = document.setdefault("metadata", {})
            if not isinstance(meta, dict) or not meta.get("name"):
                raise DataError(f"{path}: the GPUAutoscaler has no metadata.name")
            meta.setdefault("namespace", namespace)
            meta.setdefault("uid", "not-applied")
            meta.setdefault("generation", 1)
            return document
    raise DataError(f"{path}: no GPUAutoscaler in it")


def _show(name: str, namespace: str, status: dict[str, Any]) -> None:
    """The decision for people."""
    from rich.console import Console
    from rich.table import Table

    from harmony.serving.words import chance

    console = Console()
    decision = status.get("lastScaleDecision")
    for condition in status.get("conditions", ()):
        bad_if = "True" if condition["type"] in ("TargetConflict", "Fallback", "Paused") else "False"
        if condition["status"] == bad_if and condition["type"] not in ("ScalingLimited",):
            console.print(f"{condition['type']}={condition['status']} {condition['reason']}: {condition['message']}")
    if decision is None:
        console.print(f"{namespace}/{name}: no decision could be made")
        return
    console.print(f"[bold]{namespace}/{name}[/]: {decision['message']}")
    console.print(f"reason {decision['reason']}" + (f", bound by {decision['boundBy']}" if decision["boundBy"] else ""))
    if decision["candidates"]:
        table = Table(
            "replicas",
            "stated risk",
            "weighed cost per hour",
            title="what every count would risk, and the cost that the rule weighs (not the bill)",
        )
        for c in decision["candidates"]:
            chosen = c["replicas"] == decision["recommendedReplicas"]
            risk = chance(c["violationProbability"], decision.get("paths", 0))
            row = (str(c["replicas"]), risk, f"{c['expectedCostPerHour']:.4g}")
            table.add_row(*row, style="bold green" if chosen else None)
        console.print(table)
    for q in decision["quantiles"]:
        values = "  ".join(f"{v:.4g}" for v in q["values"])
        console.print(f"demand, {q['quantile']:.0%} quantile, step by step: {values}")
