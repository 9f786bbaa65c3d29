"""The command line reference: every verb with its help, from the very objects that parse it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from tables import code, table

from harmony.cli.main import app

KINDS = {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}


def verbs() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
            return
        for word, sub in inner.items():
            if not sub.hidden:
                yield from walk(sub, f"{name} {word}")

    yield from walk(typer.main.get_command(app), "harmony")


def cli_page() -> str:
    parts = []
    for name, command in verbs():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
        usage = " ".join([name, *(_argument(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
        parts.append(f"## `{name}`\n\n{_help(command.help)}\n\n```text\n{usage}\n```\n")
        if arguments:
            rows = ((code(_argument(p)), _help(p.help)) for p in arguments)
            parts.append(table(("Argument", "Meaning"), rows))
        if options:
            rows = ((_flags(p), _kind(p), _default(p), code(_variable(p)), _help(p.help)) for p in options)
            parts.append(table(("Option", "Kind", "Default", "Environment", "Meaning"), rows))
    return "\n".join(parts)


def _help(text: str | None) -> str:
    """Help is Markdown already. Options get the look of code where they have not, examples a block of their own."""
    said, _, examples = re.sub(r"\n\n(?:Examples?):\s", "\0", (text or "").strip(), count=1).partition("\0")
    parts = said.split("`")
    parts[::2] = [re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", part) for part in parts[::2]]
    commands = [" ".join(command.split()) for command in re.findall(r"`([^`]+)`", examples)]
    block = "\n\n```console\n" + "\n".join(f"$ {command}" for command in commands) + "\n```" if commands else ""
    return "`".join(parts) + block


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _flags(parameter: Any) -> str:
    names = ", ".join(code(o) for o in sorted(parameter.opts, key=len))
    off = ", ".join(code(o) for o in parameter.secondary_opts)
    return f"{names} / {off}" if off else names


def _kind(parameter: Any) -> str:
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:  # typer on click itself
        text = "flag" if parameter.is_flag else str(parameter.type.name)
    else:
        text = _named(descriptor.annotation)
    return f"{text}, repeat" if parameter.multiple else text


def _named(annotation: Any) -> str:
    while typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(parameter: Any) -> str:
    value = parameter.default
    if callable(value) or value is None or value is False or value in ("", [], ()):
        return "**required**" if parameter.required else ""
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def _variable(parameter: Any) -> str:
    return parameter.envvar if isinstance(parameter.envvar, str) else ""
