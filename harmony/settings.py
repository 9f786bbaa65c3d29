"""What a person chooses, written once: a field of a settings class becomes flag, environment name and chart value.

A settings class is a frozen dataclass about one concern. A field that people may choose is annotated with a `Setting`:
`harmony.cli.options` makes the flag of it, `harmony.app.chart` the chart's value. Any other field is for code alone.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chosen", "Setting", "Value", "settings_of"]


@dataclass(frozen=True, slots=True)
class Value:
    """The chart's value for a setting.

    Attributes:
        path: where it stands in values.yaml, as `controller.interval`; empty where it follows from other values.
        help: one sentence in the chart's words; the setting's own by default.
        default: what values.yaml says; the setting's own by default.
        schema: JSON schema besides type and description, which follow from the default and the help.
        form: how the argument is made of it, as `:%v` for a port.
        when: path of the boolean value without which the setting is left out.
        template: named template that makes the text of several values; empty text: nothing is said.
        whole: the template makes all of the environment's entry but its name, where the text is in a Secret.
        shared: given by the environment, so that `harmony doctor` and others run in the container read it too.
    """

    path: str
    help: str = ""
    default: object = None
    schema: Mapping[str, object] = field(default_factory=dict)
    form: str = "%v"
    when: str = ""
    template: str = ""
    whole: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field is chosen.

    Attributes:
        help: one sentence; Markdown.
        flag: the flag's name without dashes; the field's by default.
        short: one letter besides.
        env: whether there is an environment name, HARMONY_ and the flag in capitals; or another name than that.
        least, most: bounds of a number.
        duration: seconds here, written as 30s or 5m by people.
        default_help: what the default is, where it does not say so itself.
        value: its place in the chart.
    """

    help: str
    flag: str = ""
    short: str = ""
    env: bool | str = True
    least: float | None = None
    most: float | None = None
    duration: bool = False
    default_help: str = ""
    value: Value | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A field with its setting; ``path`` leads to it by attributes, ``kind`` is its type without the annotation."""

    path: tuple[str, ...]
    kind: Any
    default: object
    setting: Setting

    @property
    def flag(self) -> str:
        """The flag's name without dashes."""
        return self.setting.flag or self.path[-1].replace("_", "-")

    @property
    def env(self) -> str:
        """The environment name; empty for none."""
        given = self.setting.env
        return given if isinstance(given, str) else f"HARMONY_{self.flag.replace('-', '_').upper()}" if given else ""

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return typing.get_origin(self.kind) is tuple

    @property
    def is_pairs(self) -> bool:
        """Whether each is KEY=VALUE."""
        return self.is_list and typing.get_origin(typing.get_args(self.kind)[0]) is tuple


def settings_of(kind: type, within: tuple[str, ...] = ()) -> Iterator[Chosen]:
    """The fields of a settings class that people choose, those of settings classes within it in their place."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for one in dataclasses.fields(kind):
        path, annotation = (*within, one.name), hints[one.name]
        if dataclasses.is_dataclass(annotation):
            yield from settings_of(typing.cast(type, annotation), path)
        for found in getattr(annotation, "__metadata__", ()):
            if isinstance(found, Setting):
                yield Chosen(path, annotation.__origin__, one.default, found)
