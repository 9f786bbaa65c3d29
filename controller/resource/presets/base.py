"""`Preset`: the usual indicators of a server or exporter as PromQL, demand and service level named.

Where metric names changed across versions the old and the new one are joined with ``or``, which compares labels and
not names: a pod that exports both counts once, and a rollout from one version to the next stays whole. A missing
metric leaves the result empty (absent), never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.prometheus.coverage import Reporting
from controller.prometheus.families import MATCHERS, Kin, family_of, read_matchers
from controller.prometheus.freshness import selectors
from forecasting.panel import Indicator, Kind, Level

__all__ = [
    "MATCHERS",
    "WINDOW",
    "Apart",
    "Preset",
    "Template",
    "default_apart",
    "default_matchers",
    "given_apart",
    "own_reporting",
    "p95",
    "query",
    "rate",
    "reporting",
    "total",
]

WINDOW = "2m"  # two scrapes at the usual 15..60 s, so that one lost scrape does not empty a rate

# Pod names as their owners make them. A ReplicaSet's hash and a pod's suffix are of these letters (Kubernetes'
# `rand.SafeEncodeString`), so that chat-embed-... is not taken for a pod of chat.
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_POD_NAMES = {
    "Deployment": f"-{_SAFE}{{1,10}}-{_SAFE}{{5}}",
    "StatefulSet": "-[0-9]+",
    "LeaderWorkerSet": "-[0-9]+(-[0-9]+)?",
}
# The same, such that each leaves one name only for any pod: llama-1-2 is a pod of llama, and one of llama-1.
_TAILS = {
    "Deployment": (_POD_NAMES["Deployment"],),
    "StatefulSet": (_POD_NAMES["StatefulSet"],),
    "LeaderWorkerSet": ("-[0-9]+", "-[0-9]+-[0-9]+"),
}

# Pods of a ReplicaSet get its name (ours and a hash of up to 10 letters) cut to 58 characters, and 5 of their own.
LONGEST_WHOLE_NAME = 58 - len("-1234567890-")


@dataclass(frozen=True, slots=True)
class Template:
    """One indicator of a preset and its PromQL with a place for label matchers."""

    indicator: Indicator
    promql: str

    def fill(self, matchers: str) -> str:
        """The PromQL with ``matchers`` in every selector (more may follow them, so a comma at the end is dropped)."""
        return self.promql.replace(MATCHERS, matchers.strip().rstrip(","))

    def kin(self, apart: Apart | None) -> Kin | None:
        """Whom a service's query can be asked together with; None for nobody."""
        if apart is None:
            return None
        family = family_of(self.promql, apart.labels, apart.common, apart.named_by, apart.tails)
        return None if family is None else Kin(family, apart.member)


@dataclass(frozen=True, slots=True)
class Apart:
    """How a service's label matchers tell it from others like it (see `Family`)."""

    labels: tuple[str, ...]
    member: tuple[str, ...]
    common: str = ""
    named_by: str = ""
    tails: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """The indicators of one kind of server.

    `demand` is the indicator that replicas are counted for; `service_level` the one that is usually bounded.
    `per_replica` is a first guess of the demand one replica carries, for objectives that have it learned.
    `labels` are the label names of namespace and pod in the usual scrape configuration. `reporting` counts the pods
    that report; empty where the demand is not read from the pods that are scaled, so that it is there without any.
    `shared` is for a server that many services stand behind, whose matchers a person has to give: such as these.
    """

    name: str
    templates: tuple[Template, ...]
    demand: str
    service_level: str
    per_replica: float
    labels: tuple[str, str] = ("namespace", "pod")
    reporting: str = ""
    shared: str = ""

    def counted(self, matchers: str, apart: Apart | None) -> Reporting | None:
        """How the pods that report are counted, under the matchers of its templates."""
        if not self.reporting:
            return None
        counting = Template(Indicator("reporting", "pods", 1, "gauge"), self.reporting)
        return Reporting(counting.fill(matchers), counting.kin(apart))


def default_matchers(preset: Preset, namespace: str, kind: str, name: str) -> str:
    """Matchers for the pods of a target, by namespace and by the way its controller names pods.

    ``namespace`` and ``name`` are DNS names (checked when they were read), so there is nothing to quote but dots.
    """
    return _pods(preset.labels, namespace, kind, name)


def _pods(labels: tuple[str, str], namespace: str, kind: str, name: str) -> str:
    in_namespace, in_pod = labels
    tail = _POD_NAMES.get(kind, "-.+")
    if kind == "Deployment" and len(name) > LONGEST_WHOLE_NAME:
        name, tail = name[:LONGEST_WHOLE_NAME], ".+"
    return f'{in_namespace}="{namespace}",{in_pod}=~"{name.replace(".", "[.]")}{tail}"'


def default_apart(preset: Preset, namespace: str, kind: str, name: str) -> Apart | None:
    """How `default_matchers` tell a service apart; None where a pod's name does not say whose it is."""
    in_namespace, in_pod = preset.labels
    if kind not in _TAILS or (kind == "Deployment" and len(name) > LONGEST_WHOLE_NAME):
        return None
    return Apart((in_namespace,), (namespace, name), named_by=in_pod, tails=_TAILS[kind])


def given_apart(matchers: str) -> Apart | None:
    """How matchers that a person gave tell a service apart; None where they do not."""
    read = read_matchers(matchers)
    if read is None:
        return None
    equal, common = read
    return Apart(tuple(equal), tuple(equal.values()), common)


def reporting(*metrics: str, label: str = "pod", at_once: bool = True) -> str:
    """How many pods report one of these metrics.

    ``at_once``: a server has them from its start; where they appear with the first request, a pod without counts as
    long as it is scraped.
    """
    return _reporting([f"{metric}{{{MATCHERS}}}" for metric in metrics], label, "" if at_once else MATCHERS)


def own_reporting(promql: str, namespace: str, kind: str, name: str) -> Reporting | None:
    """How the target's pods are counted that report what ``promql`` reads; it gives none where the target's do not."""
    found = [_narrowed(text, _pods(("namespace", "pod"), namespace, kind, name)) for text in selectors(promql)]
    return Reporting(_reporting(found, "pod", _pods(("namespace", "pod"), namespace, kind, name))) if found else None


def _reporting(found: list[str], label: str, scraped: str) -> str:
    own = " or ".join(found)
    if scraped:
        own = f"{own} or (up{{{scraped}}} == 1 and on (job) ({own}))"
    return f"count(count by ({label}) ({own}))"


def _narrowed(selector: str, matchers: str) -> str:
    """A selector with more matchers."""
    name, brace, rest = selector.partition("{")
    given = rest.rpartition("}")[0].strip().rstrip(",") if brace else ""
    return f"{name.strip()}{{{given}{',' if given else ''}{matchers}}}"


def query(name: str, unit: str, level: Level, promql: str, kind: Kind = "gauge") -> Template:
    """An indicator and its PromQL, `MATCHERS` where the selectors' matchers go."""
    return Template(Indicator(name, unit, level, kind), promql)


def rate(name: str, unit: str, level: Level, *counters: str) -> Template:
    """How fast a counter grows, summed over the pods; of several names whichever a pod exports."""
    rates = " or ".join(f"rate({counter}{{{MATCHERS}}}[{WINDOW}])" for counter in counters)
    return query(name, unit, level, f"sum({rates})", "rate")


def total(name: str, unit: str, *parts: str) -> Template:
    """The sum of several gauges of demand, each over the pods (``"new|old"``: of two names whichever a pod exports).

    Servers export some of them with the first request only, or not at all: a part that is not there while another is
    counts nothing. Where none is, the sum is absent.
    """
    sums = [f"sum({' or '.join(f'{metric}{{{MATCHERS}}}' for metric in part.split('|'))})" for part in parts]
    whole = (" or ".join([one, *(f"0 * {other}" for other in sums if other != one)]) for one in sums)
    return query(name, unit, Level.DEMAND, " + ".join(f"({one})" for one in whole))


def p95(name: str, level: Level, *histograms: str) -> Template:
    """The 95 % quantile of a histogram, seconds; of several names whichever a pod exports."""
    rates = " or ".join(f"rate({h}_bucket{{{MATCHERS}}}[{WINDOW}])" for h in histograms)
    return query(name, "s", level, f"histogram_quantile(0.95, sum by (le) ({rates}))")
