"""What of the chart is made of settings: the files are current, and a setting that is missing there is put there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from harmony.app import chart
from harmony.app.chart import FILES, default_of, renewed, schema, settings_of_the_chart, template, values
from harmony.settings import Chosen, Setting, Value
from tests.helm.chart import CHART

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = (CHART / "values.schema.json").read_text()
SETTINGS = settings_of_the_chart()
NAMES = [value.path for _, value in SETTINGS]


def at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def test_the_files_are_current() -> None:
    for path, text in renewed().items():
        assert path.read_text() == text, f"{path.name} is not what the settings say: run make generated"


def test_every_setting_of_the_chart_has_one_place() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 20
    assert set(FILES) == {CHART / "templates" / "_settings.tpl", CHART / "values.yaml", CHART / "values.schema.json"}


@pytest.mark.parametrize(("one", "value"), SETTINGS, ids=NAMES)
def test_values_and_schema_say_what_the_setting_says(one: Chosen, value: Value) -> None:
    assert at(yaml.safe_load(VALUES), value.path) == default_of(one, value)
    node = json.loads(SCHEMA)
    for key in value.path.split("."):
        node = node["properties"][key]
    assert node["description"] == (value.help or one.setting.help)
    assert value.schema.items() <= node.items()


def without(text: str, path: str) -> str:
    """values.yaml without a value and its comment."""
    indent = "  " * path.count(".")
    section = 0
    lines = text.splitlines()
    for depth, key in enumerate(path.split(".")):
        section = next(i for i in range(section, len(lines)) if lines[i].startswith(f"{'  ' * depth}{key}:"))
    first = section
    while lines[first - 1].startswith(f"{indent}#"):
        first -= 1
    return "\n".join(lines[:first] + lines[section + 1 :]) + "\n"


@pytest.mark.parametrize("path", NAMES)
def test_a_value_that_is_missing_is_put_into_its_section(path: str) -> None:
    assert path.split(".")[-1] + ":" in VALUES
    cut = without(VALUES, path)
    assert cut != VALUES
    again = values(cut)
    assert yaml.safe_load(again) == yaml.safe_load(VALUES)
    assert sorted(again.splitlines()) == sorted(VALUES.splitlines()), "the rest stays as it is"


@pytest.mark.parametrize("path", NAMES)
def test_a_schema_that_is_missing_is_made(path: str) -> None:
    tree = json.loads(SCHEMA)
    node = tree
    *sections, name = path.split(".")
    for key in sections:
        node = node["properties"][key]
    del node["properties"][name]
    assert json.loads(schema(json.dumps(tree))) == json.loads(SCHEMA)


def test_what_is_wrong_is_put_right() -> None:
    broken = re.sub(r"(?m)^  interval: 30s$", "  interval: 5m", VALUES).replace("# -- json or text.", "# -- yaml.")
    assert broken != VALUES
    assert values(broken) == VALUES


def test_a_new_setting_makes_its_section_its_flag_and_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    def new(name: str, kind: Any, default: object, value: Value) -> tuple[Chosen, Value]:
        return Chosen((name,), kind, default, Setting(f"What {name} is.", value=value)), value

    added = [
        new("turbo", bool, False, Value("fresh.turbo", when="keda.enabled")),
        new("brake", bool | None, None, Value("fresh.brake", default=True)),
        new("depth", int, 3, Value("fresh.deep.depth", schema={"minimum": 1})),
        new("label", tuple[tuple[str, str], ...], (), Value("fresh.labels")),
        new("label_file", str, "", Value("fresh.labelFile", shared=True)),
    ]
    follows = Value("", when="keda.enabled", template="harmony.fresh")
    source = Value("", template="harmony.source", whole=True, shared=True)
    given = [*chart.told_by_the_chart(), *added, new("follower", bool, False, follows), new("secret", str, "", source)]
    monkeypatch.setattr(chart, "told_by_the_chart", lambda: given)
    made = yaml.safe_load(values(VALUES))
    fresh = {"turbo": False, "brake": True, "deep": {"depth": 3}, "labels": {}, "labelFile": ""}
    assert made.pop("fresh") == fresh
    assert made == yaml.safe_load(VALUES)
    tree = json.loads(schema(SCHEMA))["properties"]["fresh"]
    assert tree["additionalProperties"] is False
    assert tree["properties"]["deep"]["properties"]["depth"] == {
        "type": "integer", "minimum": 1, "description": "What depth is.",
    }  # fmt: skip
    told = template()
    assert "{{- if .Values.keda.enabled }}\n{{- if .Values.fresh.turbo }}\n- --turbo\n{{- end }}\n{{- end }}" in told
    assert "{{- if .Values.fresh.brake }}\n- --brake\n{{- else }}\n- --no-brake\n{{- end }}" in told
    assert '- {{ printf "--depth=%v" .Values.fresh.deep.depth | quote }}' in told
    assert (
        '{{- range $key, $value := .Values.fresh.labels }}\n- {{ printf "--label=%s=%s" $key $value | quote }}' in told
    )
    assert '{{- if include "harmony.fresh" . }}\n- --follower\n{{- end }}' in told
    assert '{{- with include "harmony.source" . }}\n- {name: HARMONY_SECRET, {{ . }}}\n{{- end }}' in told
    assert "{{- with .Values.fresh.labelFile }}\n- {name: HARMONY_LABEL_FILE, value: {{ . | quote }}}" in told
