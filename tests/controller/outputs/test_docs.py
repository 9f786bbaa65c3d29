"""The worked example of the documentation works as it stands there, and takes no more files than it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_three_steps_of_the_documentation_are_all_that_it_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "outputs.md").read_text()
    source, test = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (line,) = re.findall(r"`(\"config_map\": Listed\(.*?\))`", text)
    (case,) = re.findall(r"`(Case\(\"config_map\".*?\))`", text)
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("controller", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skip)
    (tmp_path / "controller" / "outputs" / "config_map.py").write_text(source)
    (tmp_path / "tests" / "controller" / "outputs" / "test_config_map.py").write_text(test)
    for file, before, added in (
        ("controller/resource/outputs.py", "}\n\nACTUATIONS", f"    {line},\n"),
        ("tests/controller/outputs/cases.py", "]\n\nCASES", f"    {case},\n"),
    ):
        old = (tmp_path / file).read_text()
        assert old.count(before) == 1
        (tmp_path / file).write_text(old.replace(before, added + before))
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    laws = ("-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "tests/controller/outputs")
    (passed,) = re.findall(r"(\d+) passed", run(*laws, "-k", "config_map or every_output or registry"))
    assert int(passed) >= 10

    crd = "import json; from controller.resource.crd import crd_manifest; print(json.dumps(crd_manifest()))"
    spec = yaml.safe_load(run("-c", crd))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    actuation = spec["properties"]["actuation"]
    assert actuation["enum"] == ["Scale", "External", "ConfigMap"]
    assert actuation["default"] == "Scale"
    assert actuation["description"].endswith("; ConfigMap keeps the count in NAME-replicas.")
    assert any("self.actuation != 'ConfigMap'" in rule["rule"] for rule in spec["x-kubernetes-validations"])
    page = run("-c", "from controller.resource.reference import reference; print(reference())")
    assert "| `config_map` | `ConfigMap` | ConfigMap keeps the count in NAME-replicas |" in page
