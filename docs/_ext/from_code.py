"""Tables and lists of what the code promises: presets, conditions, Python names, example files."""

from __future__ import annotations

import importlib
from enum import Enum
from pathlib import Path

from tables import code, table

from controller.resource.presets import MATCHERS, PRESETS
from controller.resource.status import CONDITIONS
from forecasting.methods import method_names, method_summary
from harmony.policies.registry import create_policy, policy_names, policy_summary
from kernels import available, describe

ROOT = Path(__file__).parents[2]

# What the project promises to Python, by page section: (title, sentence, names).
PROMISED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Deciding", "Pure: an observation in, a decision with all its alternatives out.", (
        "harmony.decide", "harmony.Objective", "harmony.model.observation.Observation",
        "harmony.model.decision.Decision", "harmony.model.decision.Candidates",
        "harmony.model.decision.Reason", "harmony.model.capacity.Capacity",
        "harmony.model.lead_time.LeadTime", "harmony.model.record.Record",
    )),
    ("Forecasting", "", (
        "forecasting.Forecaster", "forecasting.ForecastDistribution", "forecasting.Panel", "forecasting.Indicator",
        "forecasting.windows.WindowBatch", "forecasting.evaluate",
    )),
    ("Replaying", "", (
        "simulator.load_trace", "simulator.replay", "simulator.replaying.ReplaySettings",
        "simulator.result.ReplayResult", "simulator.result.PolicyRun",
    )),
    ("Asking a server", "The typed client of the API.", (
        "harmony.client.Client", "harmony.client.ApiError", "harmony.client.Unreachable",
    )),
    ("Attention", "", ("kernels.attention", "kernels.available", "kernels.hierarchical_attention")),
    ("Errors", "A user's mistake is an `InputError` with one line that says what, where, and what would be accepted.", (
        "forecasting.errors.HarmonyError", "forecasting.errors.InputError", "forecasting.errors.DataError",
        "forecasting.errors.ArtefactError", "forecasting.errors.UsageError",
    )),
)  # fmt: skip


def promised_names() -> list[str]:
    return [name for _, _, names in PROMISED for name in names]


def python_api() -> str:
    parts = []
    for title, sentence, names in PROMISED:
        parts.append(f"## {title}\n\n{sentence}\n\n```{{eval-rst}}")
        parts += [_directive(name) for name in names]
        parts.append("```\n")
    return "\n".join(parts)


def _directive(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    promised = getattr(importlib.import_module(module), attribute)
    if isinstance(promised, type):
        whole = "   :undoc-members:\n" if issubclass(promised, Enum) else ""
        return f".. autoclass:: {name}\n   :members:\n{whole}"
    return f".. autofunction:: {name}\n"


def preset_tables() -> str:
    """Demand, service level and first guess of every preset, with the queries."""
    parts = []
    for name, preset in PRESETS.items():
        head = (
            f"### {name}\n\nDemand: `{preset.demand}`. Usual service level: `{preset.service_level}`. "
            f"First guess of what one replica carries: {preset.per_replica:g}.\n"
        )
        rows = (
            (code(t.indicator.name), str(t.indicator.level), t.indicator.unit, code(t.promql.replace(MATCHERS, "...")))
            for t in preset.templates
        )
        parts.append(head + "\n" + table(("Indicator", "Level", "Unit", "PromQL"), rows))
    return "\n".join(parts)


def names_page() -> str:
    """Whatever is chosen by name, out of its registry: policies, forecasting methods, attention mechanisms, presets."""
    policies = (
        (code(n), _plain(policy_summary(n)), ", ".join(f"`{k}`" for k in create_policy(n).settings))
        for n in policy_names(further=True)
    )
    methods = ((code(n), _plain(method_summary(n))) for n in method_names())
    mechanisms = ((code(n), describe(n).summary, describe(n).causal, describe(n).cost) for n in available())
    presets = ((code(n), code(p.demand), code(p.service_level)) for n, p in PRESETS.items())
    return "\n".join(
        (
            "## Policies\n\n`--policy` of `harmony replay` and `harmony backtest`; the first five also "
            "`policies` of the API.\n",
            table(("Name", "What it does", "Settings"), policies),
            "## Forecasting methods\n\n`--method` of `harmony evaluate`, `--model` of `harmony forecast`, "
            "`--forecaster` of `harmony replay`; or a model of your own by folder, or `base`, the bundled one.\n",
            table(("Name", "What it does"), methods),
            "## Attention mechanisms\n\n`method` of `kernels.attention`, `--methods` of `harmony bench kernels`.\n",
            table(("Name", "What a query gets", "Causal", "Cost"), mechanisms),
            "## Presets of indicators\n\n`preset` of a `GPUAutoscaler`; their queries are in "
            "[Demand queries](../howto/demand-queries.md).\n",
            table(("Name", "Demand", "Usual service level"), presets),
        )
    )


def _plain(docstring: str) -> str:
    """A docstring's line as Markdown."""
    return docstring.replace("``", "`")


def condition_table() -> str:
    return table(("Condition", "True means"), ((code(name), text) for name, text in CONDITIONS.items()))


def example_pages() -> str:
    parts = []
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        title = path.stem.replace("-", " ")
        parts.append(f"## {title}\n\n```{{literalinclude}} ../../examples/{path.name}\n:language: yaml\n```\n")
    return "\n".join(parts)
