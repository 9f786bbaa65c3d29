"""The worked example of the documentation works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kernels_behaviour import PAGE, filled
from kernels import attention, describe, registry
from tests.kernels.cases import random_qkv, relative

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_three_steps_of_the_documentation_are_all_that_it_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kernels.md").read_text()
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "MECHANISM" in block)
    (home,) = re.findall(r"`(\"comb\": \"kernels\.windows\.comb\")`", text)
    (case,) = re.findall(r"`(Case\(\"comb\".*?\))`", text)
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "kernels").mkdir(parents=True)
    for name in ("__init__.py", "cases.py", "test_laws.py"):
        shutil.copy(ROOT / "tests" / "kernels" / name, tmp_path / "tests" / "kernels" / name)
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "kernels" / "windows" / "comb.py").write_text(source)
    for file, before, added in (
        ("kernels/registry.py", "_HOMES: dict[str, str] = {\n", f"    {home},\n"),
        ("tests/kernels/cases.py", "_ALL = [\n", f"    {case},\n"),
    ):
        old = (tmp_path / file).read_text()
        assert old.count(before) == 1
        (tmp_path / file).write_text(old.replace(before, before + added))
    laws = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "tests/kernels"]
    done = subprocess.run(
        [*laws, "-k", "comb or has_a_case"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 13


def test_the_mechanism_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "kernels.md").read_text()
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "MECHANISM" in block)
    (tmp_path / "comb_of_the_docs.py").write_text(source)
    spec = importlib.util.spec_from_file_location("comb_of_the_docs", tmp_path / "comb_of_the_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "comb_of_the_docs", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(registry._HOMES, "comb", "comb_of_the_docs")
    assert describe("comb").options == {"window": 16, "period": 288}
    (q, k, v), _ = random_qkv(41, 77, seed=1)
    for causal in (False, True):
        found = [
            attention(q, k, v, method="comb", window=3, period=7, causal=causal, backend=backend)
            for backend in ("torch", "reference")
        ]
        assert relative(*found) < 1e-12
        eye = torch.eye(77, dtype=q.dtype).expand(2, 2, -1, -1)
        seen = attention(q, k, eye, method="comb", window=3, period=7, causal=causal)[0, 0, 20] > 0
        assert seen.nonzero()[:, 0].tolist() == [
            j for j in range(77) if abs(56 - j) in (0, 1, 2, 7, 8, 9) and (not causal or j <= 56)
        ]


def test_the_table_of_behaviour_is_what_its_command_makes() -> None:
    assert PAGE.read_text() == filled(PAGE.read_text()), "run `make generated`"
    with pytest.raises(ValueError, match="has no place between"):
        filled("a page")
