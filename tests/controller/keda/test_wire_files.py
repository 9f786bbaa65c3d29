"""The compiled files belong to the proto file."""

from __future__ import annotations

from controller.keda.generate import HERE, generate


def test_compiled_files_are_those_of_the_proto_file() -> None:
    made = generate()
    assert sorted(made) == ["externalscaler_pb2.py", "externalscaler_pb2.pyi"]
    for name, text in made.items():
        kept = (HERE / name).read_text(encoding="utf-8")
        assert kept == text, f"{name} is out of date: run `python -m controller.keda.generate`"
