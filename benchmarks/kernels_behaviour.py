"""The table of behaviour in `docs/kernels.md`: `python -m benchmarks.kernels_behaviour` writes it anew.

It is made of what each method says of itself. `tests/kernels/test_compiled.py` holds every method to what all of them
promise (compile, export, meta, autocast, NaN), `test_state.py` and `test_extras.py` to the rest.
"""

from __future__ import annotations

from pathlib import Path

from kernels import available, describe
from kernels.registry import mechanism

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
BEGIN, END = "<!-- behaviour: python -m benchmarks.kernels_behaviour -->", "<!-- end of behaviour -->"
HEAD = ("method", "compile", "export", "meta", "autocast", "NaN in hidden keys", "varlen", "state", "backends")


def row(method: str) -> tuple[str, ...]:
    """What one method does, by the columns of `HEAD`."""
    told, known = describe(method), mechanism(method)
    function = bool(told.backends)
    compiled = "operator" if function else "layer"
    if method == "sdpa":
        compiled = "PyTorch's own, operator with a mask"
    return (
        f"`{method}`",
        compiled,
        "yes, not to another process" if "rule" in told.options else "yes",
        "yes",
        "yes",
        "nowhere",
        "yes" if function else "",
        ", ".join(f"`{name}`" for name in known.state_names),
        ", ".join(told.backends)
        if function
        else "of its method"
        if "method" in (told.build_options or {})
        else "reference, torch",
    )


def table() -> list[str]:
    """The lines of the table."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(row(method) for method in available())]
    return ["| " + " | ".join(cells) + " |" for cells in rows]


def filled(page: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE.name} has no place between {BEGIN!r} and {END!r}")
    return "\n".join([before + BEGIN, "", *table(), "", END]) + after


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
