"""The reference page is up to date and complete."""

from __future__ import annotations

from controller.resource.group import ANNOTATION_MEANINGS, Annotation
from controller.resource.reference import PAGE, reference
from controller.resource.status import CONDITIONS

from .test_crd import SCHEMA, nodes


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m controller.resource.reference"


def test_every_field_condition_and_annotation_stands_in_it() -> None:
    lines = reference().splitlines()
    section, listed = "", set()
    for line in lines:
        if line.startswith("### `"):
            section = line.split("`")[1]
        elif line.startswith("| `"):
            listed.add(f".{section}.{line.split('`')[1]}")
    wanted = {path for path, _ in nodes(SCHEMA) if path.startswith((".spec.", ".status.")) and not path.endswith("[]")}
    assert wanted <= listed
    for name in (*CONDITIONS, *ANNOTATION_MEANINGS):
        assert any(line.startswith(f"| `{name}`") for line in lines)


def test_every_annotation_has_a_meaning() -> None:
    keys = {value for name, value in vars(Annotation).items() if name.isupper()}
    assert keys == set(ANNOTATION_MEANINGS)
