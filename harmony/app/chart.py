"""What of the Helm chart follows from settings: values, their comments and schema, the template of arguments.

`python -m harmony.app.chart` (`make generated`) renews them in a checkout. Everything else in these files is by hand,
and stays.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from controller.process.settings import ControllerSettings
from harmony.app.settings import DemoSettings, DoorSettings, JournalSettings, ListenSettings
from harmony.durations import format_duration
from harmony.settings import Chosen, Value, settings_of

__all__ = ["FILES", "default_of", "renewed", "settings_of_the_chart"]

CHART = Path(__file__).parents[2] / "helm" / "harmony"
CLASSES = (ListenSettings, DoorSettings, JournalSettings, DemoSettings, ControllerSettings)
WIDTH = 120
HERE = "@"  # where a template reads the value
PLAIN = re.compile(r"(?!(?:true|false|null|yes|no|on|off)$)[A-Za-z0-9][\w./-]*[A-Za-z_./-]|[A-Za-z]", re.IGNORECASE)
HEAD = (
    "{{/* Made of the settings by `make generated`: what the program is told of the values. By hand: _pod.tpl. */}}\n"
)
SECTION = {"type": "object", "additionalProperties": False}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def told_by_the_chart() -> list[tuple[Chosen, Value]]:
    """Every setting that the chart gives, in the order of its class."""
    found = [(one, one.setting.value) for kind in CLASSES for one in settings_of(kind)]
    return [(one, value) for one, value in found if value is not None]


def settings_of_the_chart() -> list[tuple[Chosen, Value]]:
    """Those that are a value of their own; what is left follows from others."""
    return [(one, value) for one, value in told_by_the_chart() if value.path]


def default_of(one: Chosen, value: Value) -> Any:  # noqa: ANN401 - whatever YAML holds
    """What values.yaml says."""
    if not value.path:
        return ""
    default = one.default if value.default is None else value.default
    if one.setting.duration and isinstance(default, float):
        return format_duration(default)
    return ({} if one.is_pairs else []) if default == () else default


def text_of(one: Chosen, value: Value) -> str:
    """What is said of it."""
    return value.help or one.setting.help


# ---- the template -------------------------------------------------------------------------------------------------
def template(_: str = "") -> str:
    """`templates/_settings.tpl`: named templates of the arguments and of the environment."""
    chosen = told_by_the_chart()
    told = [pair for pair in chosen if not pair[1].shared]
    shared = [pair for pair in chosen if pair[1].shared]
    return "".join(
        [HEAD, *block("harmony.settings.args", told, argument), *block("harmony.settings.env", shared, entry)]
    )


def block(
    name: str, chosen: Iterable[tuple[Chosen, Value]], lines: Callable[[Chosen, Value], list[str]]
) -> Iterator[str]:
    """A named template of ``lines`` for each setting, those that depend on a value under it."""
    yield f'\n{{{{- define "{name}" -}}}}\n'
    for when, several in groupby(chosen, key=lambda pair: pair[1].when):
        inner = [line for one, value in several for line in lines(one, value)]
        if when:
            inner = [f"{{{{- if .Values.{when} }}}}", *inner, "{{- end }}"]
        yield "".join(f"{line}\n" for line in inner)
    yield "{{- end }}\n"


def argument(one: Chosen, value: Value) -> list[str]:
    """Lines that make the flag of the value."""
    read, flag = reading(value), f"--{one.flag}"
    if one.kind in (bool, bool | None):
        off = [] if one.default is False else ["{{- else }}", f"- --no-{one.flag}"]
        return [f"{{{{- if {read} }}}}", f"- {flag}", *off, "{{- end }}"]
    item = f'- {{{{ printf "{flag}={value.form}" {HERE} | quote }}}}'
    if one.is_pairs:
        item = f'- {{{{ printf "{flag}=%s=%s" $key $value | quote }}}}'
        return [f"{{{{- range $key, $value := {read} }}}}", item, "{{- end }}"]
    if one.is_list:
        return [f"{{{{- range {read} }}}}", item.replace(HERE, "."), "{{- end }}"]
    return optional(one, value, item)


def entry(one: Chosen, value: Value) -> list[str]:
    """Lines that make the environment variable of the value."""
    item = f"- {{name: {one.env}, value: {{{{ {HERE} | quote }}}}}}"
    if value.whole:
        item = f"- {{name: {one.env}, {{{{ {HERE} }}}}}}"
    if one.is_pairs:
        return [
            f"{{{{- with {reading(value)} }}}}",
            "{{- $pairs := list }}",
            '{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end }}',
            item.replace(HERE, 'join " " $pairs'),
            "{{- end }}",
        ]
    if one.is_list:
        return [f"{{{{- with {reading(value)} }}}}", item.replace(HERE, 'join " " .'), "{{- end }}"]
    return optional(one, value, item)


def optional(one: Chosen, value: Value, item: str) -> list[str]:
    """``item`` of what is read, left out where an empty text means that nothing is said."""
    if default_of(one, value) == "":
        return [f"{{{{- with {reading(value)} }}}}", item.replace(HERE, "."), "{{- end }}"]
    return [item.replace(HERE, reading(value))]


def reading(value: Value) -> str:
    """How a template reads it."""
    return f'include "{value.template}" .' if value.template else f".Values.{value.path}"


# ---- values.yaml --------------------------------------------------------------------------------------------------
def values(text: str) -> str:
    """values.yaml with every setting's comment and default; a value that is not there yet ends its section."""
    lines = text.splitlines()
    for one, value in settings_of_the_chart():
        place(lines, value.path.split("."), text_of(one, value), literal(default_of(one, value)))
    return "\n".join(lines) + "\n"


def place(lines: list[str], path: list[str], comment: str, written: str) -> None:
    """Put one value into the lines of a YAML file."""
    start, end = 0, len(lines)
    for depth, key in enumerate(path[:-1]):
        at = find(lines, f"{'  ' * depth}{key}:", start, end)
        if at == end:
            lines.insert(end, f"{'  ' * depth}{key}:")
        start, inner = at + 1, "  " * (depth + 1)
        ends = (i for i in range(start, len(lines)) if lines[i].strip() and not lines[i].startswith(inner))
        end = next(ends, len(lines))
        while end > start and not lines[end - 1].strip():
            end -= 1
    indent = "  " * (len(path) - 1)
    at = find(lines, f"{indent}{path[-1]}:", start, end)
    first = at
    while first > start and lines[first - 1].startswith(f"{indent}#"):
        first -= 1
    wrapped = textwrap.wrap(f"# -- {comment}", WIDTH, initial_indent=indent, subsequent_indent=f"{indent}# ")
    lines[first : min(at + 1, len(lines)) if at < end else at] = [*wrapped, f"{indent}{path[-1]}: {written}"]


def find(lines: list[str], head: str, start: int, end: int) -> int:
    """The line that begins so, or ``end``."""
    return next((i for i in range(start, end) if lines[i].startswith(head)), end)


def literal(value: object) -> str:
    """A value as YAML on one line; texts are quoted where they must be."""
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return json.dumps(int(value) if isinstance(value, float) and value == int(value) else value)


# ---- values.schema.json -------------------------------------------------------------------------------------------
def schema(text: str) -> str:
    """values.schema.json with every setting's type, bounds and description."""
    whole = json.loads(text)
    for one, value in settings_of_the_chart():
        *sections, name = value.path.split(".")
        node = whole
        for section in sections:
            node = node["properties"].setdefault(section, {**SECTION, "properties": {}})
        kind = TYPES[type(default_of(one, value))]
        node["properties"][name] = {"type": kind, **value.schema, "description": text_of(one, value)}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


FILES: dict[Path, Callable[[str], str]] = {
    CHART / "templates" / "_settings.tpl": template,
    CHART / "values.yaml": values,
    CHART / "values.schema.json": schema,
}


def renewed() -> dict[Path, str]:
    """Every file as it should be."""
    return {path: make(path.read_text(encoding="utf-8") if path.exists() else "") for path, make in FILES.items()}


if __name__ == "__main__":
    for path, text in renewed().items():
        path.write_text(text, encoding="utf-8")
