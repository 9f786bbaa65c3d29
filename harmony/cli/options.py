"""Flags of settings classes: a verb's parameter that is one becomes a flag for each of its settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from forecasting.errors import UsageError
from harmony.durations import format_duration, parse_duration
from harmony.settings import Chosen, settings_of

__all__ = ["flags_given", "with_settings"]

GIVEN = frozenset({"COMMANDLINE", "ENVIRONMENT"})


def with_settings(verb: Callable[..., int | None]) -> Callable[..., int | None]:
    """``verb`` with flags in the place of its settings.

    Every settings parameter has a default: an instance, which holds the defaults of the flags.
    """
    shown: list[inspect.Parameter] = []
    defaults: dict[str, Any] = {}
    hints = typing.get_type_hints(verb, include_extras=True)
    for parameter in inspect.signature(verb).parameters.values():
        if dataclasses.is_dataclass(parameter.default):
            defaults[parameter.name] = parameter.default
            shown += [option(one, parameter.default) for one in settings_of(type(parameter.default))]
        else:
            shown.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def command(**given: Any) -> int | None:  # noqa: ANN401 - whatever the flags are
        settings = {}
        for name, default in defaults.items():
            chosen = {one.path: parsed(one, given.pop(variable(one))) for one in settings_of(type(default))}
            settings[name] = replaced(default, chosen)
        return verb(**given, **settings)

    command.__signature__ = inspect.Signature(shown, return_annotation=int)  # type: ignore[attr-defined]
    return command


def flags_given(context: typer.Context) -> list[str]:
    """The flags that stand on the command line (or in the environment), long names, in the order of the help."""
    sources = {p.name: context.get_parameter_source(p.name) for p in context.command.params if p.name}
    said = {name for name, source in sources.items() if source is not None and source.name in GIVEN}
    options = [p for p in context.command.params if p.name in said and p.param_type_name == "option"]
    return [max(p.opts, key=len) for p in options]


def variable(one: Chosen) -> str:
    """What the flag is called in Python."""
    return one.flag.replace("-", "_")


def option(one: Chosen, settings: object) -> inspect.Parameter:
    """The flag of a setting, as typer reads it off a function; its default is what ``settings`` say."""
    setting, kind = one.setting, one.kind
    value: Any = functools.reduce(getattr, one.path, settings)
    name = f"--{one.flag}"
    if kind in (bool, bool | None) and value is not False:
        name += f"/--no-{one.flag}"
    if one.is_list:
        kind, value = list[str] | None, ["=".join(v) if one.is_pairs else v for v in value] or None
    elif setting.duration:
        kind, value = str, format_duration(value)
    info = typer.Option(
        *[name, f"-{setting.short}"][: 2 if setting.short else 1],
        envvar=one.env or None,
        help=setting.help,
        min=setting.least,
        max=setting.most,
        show_default=setting.default_help or True,
    )
    only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(variable(one), only, default=value, annotation=Annotated[kind, info])


def parsed(one: Chosen, value: Any) -> object:  # noqa: ANN401 - whatever typer read
    """What the settings class holds for it; raises `UsageError` for a text that is not of its kind."""
    if one.setting.duration:
        return parse_duration(value, zero=one.default == 0)
    if one.is_pairs:
        return tuple(pair(one.flag, text) for text in value or ())
    if one.is_list:
        return tuple(dict.fromkeys(value or ()))
    return value


def pair(flag: str, text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise UsageError(f"--{flag} {text!r}: expected KEY=VALUE")
    return key, value


def replaced(settings: Any, chosen: Mapping[tuple[str, ...], object]) -> Any:  # noqa: ANN401 - any settings class
    """``settings`` with other values, by path; all at once, because a class checks what goes together."""
    changes = {path[0]: value for path, value in chosen.items() if len(path) == 1}
    for name in {path[0] for path in chosen if len(path) > 1}:
        inner = {path[1:]: value for path, value in chosen.items() if path[0] == name}
        changes[name] = replaced(getattr(settings, name), inner)
    return dataclasses.replace(settings, **changes)
