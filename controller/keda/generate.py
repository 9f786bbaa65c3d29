"""``python -m controller.keda.generate`` compiles `externalscaler.proto` (needs grpcio-tools)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from forecasting.errors import UsageError

__all__ = ["generate", "main"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = "controller/keda/externalscaler.proto"
HEADER = "# ruff: noqa\n# fmt: off\n# mypy: ignore-errors\n"


def generate() -> dict[str, str]:
    """Name and text of each generated file; UsageError without grpcio-tools or for a proto file with a mistake."""
    if importlib.util.find_spec("grpc_tools") is None:
        raise UsageError("generating needs grpcio-tools: install the project with its `test` extra")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}"]
        done = subprocess.run([*command, SOURCE], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UsageError(f"{SOURCE}: {done.stderr.strip()}")
        files = sorted(Path(out).rglob("*.py*"))
        return {f.name: HEADER + f.read_text(encoding="utf-8") for f in files}


def main() -> int:
    """Write the generated files beside the proto file."""
    for name, text in generate().items():
        (HERE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
