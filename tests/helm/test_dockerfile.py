"""The Dockerfile, read: what can be known about the image without building it."""

from __future__ import annotations

import json
import re
import tomllib
from typing import NamedTuple

import pytest
import yaml

import harmony
from tests.helm.chart import CHART, ROOT, container, documents


class Instruction(NamedTuple):
    stage: str
    word: str
    rest: str


def instructions() -> list[Instruction]:
    """Every instruction with its stage ("" before the first FROM), continued lines joined."""
    lines = [
        ln for ln in (ROOT / "Dockerfile").read_text().splitlines() if ln.strip() and not ln.lstrip().startswith("#")
    ]
    stage, out = "", []
    for text in re.split(r"\n(?=[A-Z]+ )", "\n".join(lines)):
        word, _, rest = re.sub(r"\s*\\\n\s*", " ", text).partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        out.append(Instruction(stage, word, rest.strip()))
    return out


ALL = instructions()


def rests(stage: str, word: str) -> list[str]:
    return [i.rest for i in ALL if (i.stage, i.word) == (stage, word)]


def test_two_stages_from_one_image_that_is_pinned() -> None:
    assert [i.rest for i in ALL if i.word == "FROM"] == ["${PYTHON_IMAGE} AS builder", "${PYTHON_IMAGE} AS runtime"]
    (image,) = rests("", "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", image)
    assert ":latest" not in (ROOT / "Dockerfile").read_text()


def test_runs_as_the_user_of_the_chart() -> None:
    assert [i.rest for i in ALL if i.word == "USER"] == ["65532:65532"]
    security = documents()
    pod = next(d for d in security if d["kind"] == "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == "65532:65532"
    after = [i.word for i in ALL][[i.word for i in ALL].index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after), "nothing is changed after the switch of users"


def test_entrypoint_meets_the_chart() -> None:
    assert json.loads(rests("runtime", "ENTRYPOINT")[0]) == ["harmony"]
    assert json.loads(rests("runtime", "CMD")[0]) == container(documents())["args"][:1]
    assert rests("runtime", "HEALTHCHECK") == ["NONE"]
    exposed = {int(p) for p in rests("runtime", "EXPOSE")[0].split()}
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    ports = defaults["controller"]["ports"]
    assert exposed == {ports["metrics"], ports["health"], defaults["keda"]["port"], defaults["api"]["port"]}


def test_every_copied_thing_exists_and_is_let_in() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = set()
    for rest in rests("builder", "COPY"):
        *sources, _ = rest.split()
        copied |= {s.rstrip("/") for s in sources}
    assert copied == admitted
    for name in copied:
        assert (ROOT / name).exists(), name
    assert rests("runtime", "COPY") == ["--from=builder /opt/harmony /opt/harmony"]


def test_everything_that_the_wheel_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "pyproject.toml"}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    copied = {s.rstrip("/") for rest in rests("builder", "COPY") for s in rest.split()[:-1]}
    assert needed <= copied
    extras = next(r for r in rests("builder", "ARG") if r.startswith("EXTRAS=")).removeprefix("EXTRAS=")
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert extras == "controller,api", "the chart may be told to run either"


@pytest.mark.parametrize("text", ["Dockerfile", "docs/install.md"])
def test_gpu_image_has_the_rest_as_well(text: str) -> None:
    (extras,) = re.findall(r"--build-arg EXTRAS=(\S+)", (ROOT / text).read_text())
    assert extras == "controller,api,gpu"


def test_only_files_whose_hashes_are_known_are_taken() -> None:
    installs = [
        part for r in rests("builder", "RUN") for part in re.split(r"&&|;", r) if re.search(r" -m pip |pip --", part)
    ]
    assert len(installs) == 6
    for command in installs:
        assert "--no-deps" in command
        assert "--require-hashes" in command or "--no-index" in command, command
    lists = set(re.findall(r"requirements/([a-z]+)\.txt", " ".join(installs))) | {"base", "controller", "api", "gpu"}
    assert lists <= {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert f"VERSION={harmony.__version__}" in rests("runtime", "ARG")


@pytest.mark.parametrize("stage", ["builder", "runtime"])
def test_no_leftovers(stage: str) -> None:
    for command in rests(stage, "RUN"):
        assert "curl" not in command
        if "apt-get install" in command:
            assert "--no-install-recommends" in command
            assert "rm -rf /var/lib/apt/lists" in command
    for name in ("ADD", "VOLUME", "MAINTAINER"):
        assert not rests(stage, name)


def test_runtime_has_no_package_manager_of_its_own_and_no_compiler() -> None:
    commands = " ".join(rests("runtime", "RUN"))
    assert "pip uninstall" in commands
    assert not re.search(r"\b(gcc|build-essential|apt-get|pip install)\b", commands)
    assert any("--without-pip" in r for r in rests("builder", "RUN"))


def test_labels_and_caches() -> None:
    labels = " ".join(rests("runtime", "LABEL"))
    for name in ("title", "source", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    env = " ".join(rests("runtime", "ENV"))
    for name in ("HOME=/tmp", "MPLCONFIGDIR=/tmp", "TRITON_CACHE_DIR=/tmp", "OMP_NUM_THREADS=1"):
        assert name in env


def test_build_command_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    assert f"docker build --tag harmony:{harmony.__version__} ." in text
    assert "--build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:" in text
