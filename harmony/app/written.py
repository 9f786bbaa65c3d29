"""`Fields`: what a person wrote into a YAML file, field by field; a mistake says file, field and what is accepted."""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from forecasting.errors import UsageError, suggest
from harmony.durations import parse_duration
from simulator.pool import StartUp

__all__ = ["Fields", "loader", "read_fields", "start_up"]

_SHORT = reprlib.Repr()  # of a file that names one list in another, in another, `repr` is longer than any memory
_SHORT.maxstring = _SHORT.maxother = 60
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


def start_up(text: str, where: str = "--lead-time") -> StartUp:
    """A replica's time to become ready: ``5m``, or ``5m*1.4`` for a lognormal one (median times a spread factor)."""
    median, star, spread = text.partition("*")
    try:
        factor = float(spread) if star else 1.0
    except ValueError:
        raise UsageError(f"{where} {text!r}: expected a duration (5m) or median*spread (5m*1.4)") from None
    return StartUp(parse_duration(median), factor)


def read_fields(path: Path) -> Fields:
    """The fields of a YAML file; `UsageError` for a file that cannot be read or holds something else."""
    import yaml

    try:
        value = yaml.load(path.read_text(encoding="utf-8"), loader())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # dates that are none, nesting too deep
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error
    return Fields(value, str(path))


def _is_number(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max  # False for NaN; a whole number may be of any length


@cache
def loader() -> Any:  # noqa: ANN401 - a class of a library that is imported late
    """YAML's safe loader, for which 1e-3 is a number too (YAML 1.1 wants 1.0e-3) and a field given twice a mistake."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401
            names: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in names:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"{key.value} is there twice", key.start_mark
                        )
                    names.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))
    return Loader


class Fields:
    """One mapping of a file; each getter takes a field, `done` refuses those that nobody took."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            got = "nothing" if value is None else _shown(value)
            raise UsageError(f"{where}: expected fields with values, got {got}")
        self._left: dict[str, Any] = dict(value)
        self._asked: list[str] = []
        self.where = where

    def _take(self, name: str) -> Any:  # noqa: ANN401 - whatever the file holds
        self._asked.append(name)
        return self._left.pop(name, None)

    def _wrong(self, name: str, value: object, expected: str) -> UsageError:
        return UsageError(f"{self.where}: {name} {_shown(value)}: expected {expected}")

    @contextmanager
    def here(self, name: str = "") -> Iterator[None]:
        """Mistakes that are found within say where: in this file, or in field ``name`` of it."""
        try:
            yield
        except UsageError as error:
            said = str(error).removeprefix(f"{self.where.rpartition(': ')[2]}: ")
            if said.startswith(self.where):
                raise
            inside = f"{name} " if name and not said.startswith(name) else ""
            raise UsageError(f"{self.where}: {inside}{said}") from None

    @property
    def asked(self) -> frozenset[str]:
        """The fields that were asked for so far."""
        return frozenset(self._asked)

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._left

    def number(self, name: str, default: float | None = None, *, above: bool = False, most: float = math.inf) -> float:
        """A finite number of 0 (``above`` it) to ``most``; without a ``default`` it must be there."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not _is_number(value) or not 0 <= value <= most or (above and value == 0):
            least = "above 0" if above else "of 0 or more"
            raise self._wrong(name, value, f"a number {least}" + (f" and at most {most:g}" if most < math.inf else ""))
        return float(value)

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number of at least ``least``; without a ``default`` it must be there."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(name, value, f"a whole number of {least} or more")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; without a ``default`` it must be there."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self._wrong(name, value, "a text")
        return value

    def seconds(self, name: str, default: float | None = None) -> float:
        """A duration such as ``90s``, in seconds."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "a duration such as 90s")
        with self.here(name):
            return parse_duration(value)

    def distribution(self, name: str) -> StartUp | None:
        """A duration or ``median*spread``; None where it is not given."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, value, "a duration (5m) or median*spread (5m*1.4)")
        with self.here(name):
            return start_up(value, name)

    def numbers(self, name: str) -> list[float] | None:
        """A list of finite numbers, 0 or more; None where it is not given."""
        value = self._take(name)
        if value is None:
            return None
        good = isinstance(value, list) and all(_is_number(v) and v >= 0 for v in value)
        if not good or not value:
            raise self._wrong(name, value, "a list of numbers of 0 or more")
        return [float(v) for v in value]

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def texts(self, name: str) -> list[str]:
        """A text, or a list of them; empty where it is not given."""
        value = self._take(name)
        found = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._wrong(name, value, "a text or a list of them")
        return found

    def named(self, name: str, field: str) -> list[Fields]:
        """A list of names, or of fields of which ``field`` is the name; empty where it is not given."""
        value = self._take(name)
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        whole = [{field: one} if isinstance(one, str) else one for one in value or []]
        return [Fields(one, f"{self.where}: {name}[{i}]") for i, one in enumerate(whole)]

    def ignore(self, name: str) -> None:
        """A field that may be there and says nothing to us."""
        self._take(name)

    def rest(self) -> dict[str, Any]:
        """What was not taken, taken now."""
        rest, self._left = self._left, {}
        return rest

    def part(self, name: str) -> Fields | None:
        """Fields of a field; None where it is not given."""
        value = self._take(name)
        return None if value is None else Fields(value, f"{self.where}: {name}")

    def parts(self, name: str) -> list[Fields]:
        """A list of fields; empty where it is not given."""
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return [Fields(one, f"{self.where}: {name}[{i}]") for i, one in enumerate(value)]

    def mapping(self, name: str) -> dict[str, float]:
        """Names with numbers of 0 or more; empty where it is not given."""
        inner = self.part(name)
        return {} if inner is None else {key: inner.number(key) for key in list(inner._left)}

    def done(self) -> None:
        """Refuse what was not taken."""
        for name in self._left:
            raise UsageError(f"{self.where}: no field {name!r}; {suggest(name, self._asked)}")


def _shown(value: object) -> str:
    return "is missing" if value is None else _SHORT.repr(value)[:60]
