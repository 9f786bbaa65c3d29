"""The reference page of the custom resource, made of the models, rules, presets and names.

``python -m controller.resource.reference`` writes it to docs/reference/gpuautoscaler.md; a test says when it is old.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from controller.resource.consequences import CONSEQUENCES, Consequence
from controller.resource.group import ANNOTATION_MEANINGS, API_VERSION, KIND, PLURAL, SHORT_NAMES
from controller.resource.outputs import OUTPUTS
from controller.resource.presets import PRESETS
from controller.resource.rules import RULES
from controller.resource.schema import structural_schema
from controller.resource.spec import AutoscalerSpec
from controller.resource.status import CONDITIONS, Status

__all__ = ["PAGE", "reference"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "gpuautoscaler.md"

INTRODUCTION = f"""# {KIND}

`{API_VERSION}`, `kubectl get {PLURAL}` (short: `{SHORT_NAMES[0]}`). This page is made from the typed models in
`controller/resource/`; complete, commented files are in `examples/`.

Fields without a default are optional unless marked **required**. Names are case-sensitive; the API server drops
fields it does not know (`kubectl apply --validate=strict` names them).
"""


def reference() -> str:
    """The page as Markdown."""
    parts = [
        INTRODUCTION,
        "## Spec\n",
        *_objects("spec", structural_schema(AutoscalerSpec)),
        "## Rules across fields\n",
        *(f"- `{('spec.' + rule.at).rstrip('.')}`: {rule.message}." for rule in RULES),
        "",
        "## Outputs\n",
        "Ways in which a decision takes effect, in the order in which they act; one with a value of `actuation` is\n"
        "chosen by it. How to add one: [Outputs](../outputs.md).\n",
        _table(
            ("Output", "`actuation`", "What it does"),
            (
                (f"`{name}`", f"`{listed.actuation}`" if listed.actuation else "", listed.says)
                for name, listed in OUTPUTS.items()
            ),
        ),
        "## Presets\n",
        "The demand is marked **demand**, the indicator that is usually bounded **service level**. Without\n"
        "`presetMatchers`, queries match the namespace and the pods of the target by their names.\n",
        *_presets(),
        "## Status\n",
        *_objects("status", structural_schema(Status)),
        "## Conditions\n",
        _table(("Type", "True means"), ((f"`{name}`", text) for name, text in CONDITIONS.items())),
        "### Which follows from which\n",
        "A condition that is made False by another has its reason and message; the first that applies tells.\n",
        _table(("If", "then False", "because"), ((_cause(c), f"`{c.then}`", c.why) for c in CONSEQUENCES)),
        "## Annotations\n",
        "On a GPUAutoscaler only those for any managed object count; its spec says the rest. An existing\n"
        "HorizontalPodAutoscaler (autoscaling/v2) or ScaledObject (keda.sh/v1alpha1) needs no GPUAutoscaler: bounds\n"
        "and target are its own.\n",
        _table(
            ("Annotation", "On", "Meaning"),
            ((f"`{name}`", place, text) for name, (place, text) in ANNOTATION_MEANINGS.items()),
        ),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _cause(rule: Consequence) -> str:
    reason = f", reason `{rule.only}`" if rule.only else f", unless `{rule.unless}`" if rule.unless else ""
    return f"`{rule.of}` is {rule.status}{reason}"


def _objects(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """A heading, a sentence and a table of fields for the object at ``path``, then the same for those inside it."""
    required = schema.get("required", [])
    yield f"### `{path}`\n"
    yield f"{schema['description']}\n"
    rows = []
    inner: list[tuple[str, dict[str, Any]]] = []
    for name, field in schema["properties"].items():
        default = "**required**" if name in required else _default(field)
        rows.append((f"`{name}`", _type(field), default, field["description"]))
        item = field.get("items", field)
        if "properties" in item:
            inner.append((f"{path}.{name}{'[]' if item is not field else ''}", item))
    yield _table(("Field", "Type", "Default", "Meaning"), rows)
    for name, item in inner:
        yield from _objects(name, item)


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    return "see below" if field["default"] == {} else f"`{json.dumps(field['default'])}`"


def _type(field: dict[str, Any]) -> str:
    if "type" not in field:
        return "number or quantity"
    kind = str(field["type"])
    if kind == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of {_type(field['items'])}{most}"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if kind in ("integer", "number"):
        low, high = field.get("minimum"), field.get("maximum")
        bounds = []
        if low is not None:
            bounds.append(f"{'>' if field.get('exclusiveMinimum') else '>='} {low:g}")
        if high is not None:
            bounds.append(f"{'<' if field.get('exclusiveMaximum') else '<='} {high:g}")
        bounds += [rule["rule"].removeprefix("self ") for rule in field.get("x-kubernetes-validations", ())]
        return " ".join([kind, ", ".join(bounds)]).strip()
    if field.get("format") == "date-time":
        return "time"
    return kind


def _presets() -> Iterator[str]:
    for preset in PRESETS.values():
        yield f"### `{preset.name}`\n"
        marks = {preset.demand: " **demand**", preset.service_level: " **service level**"}
        yield _table(
            ("Indicator", "Level", "Unit", "PromQL"),
            (
                (f"`{i.name}`{marks.get(i.name, '')}", str(int(i.level)), i.unit, f"`{t.promql}`")
                for t in preset.templates
                for i in (t.indicator,)
            ),
        )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(reference(), encoding="utf-8")
