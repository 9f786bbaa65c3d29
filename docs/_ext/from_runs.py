"""The shapes of `--json` outputs, read off real runs on a small trace while the site is built."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars
from tables import code, table

from harmony.cli.main import run

DAY, MINUTE = 86_400, 60

# (command as a reader would type it, what is added here, keys whose names are data)
RUNS: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    ("harmony traces list", (), {}),
    ("harmony traces show TRACE", ("day.csv",), {}),
    ("harmony replay TRACE", ("day.csv", "--policy", "hpa", "--policy", "oracle"),
     {"policies": "POLICY", "settings": "SETTING", "reasons": "REASON"}),
    ("harmony forecast TRACE", ("day.csv", "--horizon", "2", "--samples", "20"),
     {"indicators": "INDICATOR", "quantiles": "QUANTILE"}),
    ("harmony evaluate traces DIR", ("folder", "--method", "last_value"),
     {"methods": "METHOD", "series": "SERIES", "indicators": "INDICATOR"}),
)  # fmt: skip


@lru_cache(maxsize=1)
def json_page() -> str:
    parts = []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("folder").mkdir()
        for path in ("day.csv", "folder/day.csv"):
            small_trace().write_csv(path)
        for shown, added, variable in RUNS:
            words = [w for w in shown.split()[1:] if not w.isupper()]
            rows = ((code(key), kind, code(value)) for key, kind, value in _rows(output([*words, *added]), variable))
            parts.append(f"## `{shown} --json`\n\n" + table(("Key", "Type", "For example"), rows))
    return "\n".join(parts)


def small_trace() -> polars.DataFrame:
    """A day of one indicator; made by rule, so that every build shows the same."""
    times = range(1_767_571_200, 1_767_571_200 + DAY, MINUTE)
    swing = [1 - math.cos(2 * math.pi * i / (DAY / MINUTE)) for i in range(DAY // MINUTE)]
    return polars.DataFrame(
        {"timestamp": list(times), "rps": [round(5 + 20 * s + (i * 7 % 5), 3) for i, s in enumerate(swing)]}
    )


def output(words: list[str]) -> Any:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = run([*words, "--json"])
    if status != 0:
        raise RuntimeError(f"harmony {' '.join(words)} ended with {status}")
    return json.loads(out.getvalue())


def _rows(value: Any, variable: dict[str, str], path: str = "") -> Iterator[tuple[str, str, str]]:
    """(key path, type, example); of lists and of keys that are data only the first is shown."""
    if isinstance(value, dict):
        placeholder = variable.get(path.rpartition(".")[2])
        if placeholder and value:
            yield from _rows(next(iter(value.values())), variable, f"{path}.{placeholder}")
            return
        for key, inner in value.items():
            yield from _rows(inner, variable, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        yield from _rows(value[0], variable, f"{path}[]")
    else:
        yield path, _type(value), _short(value)


def _type(value: Any) -> str:
    if value is None:
        return "null or a value"
    names = {bool: "boolean", int: "integer", float: "number", str: "text", list: "list", dict: "object"}
    return names[type(value)]


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + '..."'
