"""What a user of the wheel alone meets: every verb answers, or says in one line what to install; never a traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from harmony.cli.main import app
from tests.sharing import made_once
from tests.wheel.environment import ROOT, Fresh, build_wheel, fresh

pytestmark = pytest.mark.slow
PATIENCE_S = 120.0
NOWHERE = "http://127.0.0.1:9"  # nobody listens at port 9

SLO = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: chat}
spec:
  budgetingMethod: Timeslices
  objectives: [{target: 0.99}]
"""
FLEET = """
types: [{name: a, price: 1}]
services: [{name: chat, trace: day.csv, demand: rps, perReplica: {a: 5}}]
epsilon: 0.01
"""

# Words after each verb that need no cluster and no data; every verb is here.
WORDS: dict[str, tuple[str, ...]] = {
    "harmony replay": ("day.csv", "--policy", "static", "--json"),
    "harmony plan": ("-f", "fleet.yaml"),
    "harmony slo": ("slo.yaml",),
    "harmony scorecard": (
        "day.csv",
        "--policy",
        "static",
        "--policy",
        "hpa",
        "--evidence",
        "kept",
        "--page",
        "page.md",
    ),
    "harmony report": ("run", "run"),
    "harmony traces list": (),
    "harmony traces show": ("day.csv",),
    "harmony traces convert": ("day.csv", "made.parquet"),
    "harmony traces generate": ("--days", "1", "--out", "made.csv"),
    "harmony train": ("day.csv", "--out", "model", "--steps", "1", "--horizon", "2", "--lookback", "24"),
    "harmony windows": ("dense", "hours.csv", "--out", "windows.json"),
    "harmony forecast": ("day.csv", "--horizon", "2", "--samples", "20"),
    "harmony evaluate": ("traces", "days", "--method", "last_value", "--samples", "20"),
    "harmony bench kernels": ("--methods", "mala", "--lengths", "64", "--no-backward"),
    "harmony backtest": ("--prometheus", NOWHERE, "--demand", "x", "--per-replica", "2"),
    "harmony controller": ("--kubeconfig", "/nowhere/config"),
    "harmony recommend": ("chat", "--kubeconfig", "/nowhere/config"),
    "harmony doctor": ("--kubeconfig", "/nowhere/config"),
    "harmony crd": (),
    "harmony serve": ("--demo", "--address", "nowhere.invalid:1"),
    "harmony explain": ("serving/chat", "--url", NOWHERE),
    "harmony journal info": ("--journal", "sqlite:///none.db"),
    "harmony journal export": ("out", "--journal", "sqlite:///none.db"),
    "harmony journal retain": ("--days", "1", "--journal", "sqlite:///none.db"),
    "harmony keys create": ("me", "--journal", "sqlite:///keys.db"),
    "harmony keys list": ("--journal", "sqlite:///keys.db"),
    "harmony keys revoke": ("hk_0123456789ab", "--journal", "sqlite:///keys.db"),
    "harmony services": ("--url", NOWHERE),
    "harmony decisions": ("serving/chat", "--url", NOWHERE),
    "harmony what-if": ("serving/chat", "--url", NOWHERE),
}
# What each verb needs besides the base. The others answer without any.
API = {
    "serve", "explain", "journal info", "journal export", "journal retain", "keys create", "keys list", "keys revoke",
    "services", "decisions", "what-if",
}  # fmt: skip
CONTROLLER = {"backtest", "controller", "recommend", "doctor", "crd"}
NEEDS = {f"harmony {verb}": extra for extra, several in (("api", API), ("controller", CONTROLLER)) for verb in several}
ALL = {name: words for name, words in WORDS.items() if name not in NEEDS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(made_once(tmp_path_factory, "wheel", lambda: str(build_wheel(tmp_path_factory.mktemp("wheel")))))


def made(folder: Path, wheel: Path, *extras: str) -> Fresh:
    one = fresh(folder, wheel, extras)
    rows = "".join(f"{1_767_571_200 + 60 * i},{20 + i % 60}\n" for i in range(1440))
    (one.folder / "day.csv").write_text("timestamp,rps\n" + rows)
    (one.folder / "fleet.yaml").write_text(FLEET)
    (one.folder / "slo.yaml").write_text(SLO)
    (one.folder / "hours.csv").write_text("timestamp,rps\n" + "".join(rows.splitlines(keepends=True)[:400]))
    (one.folder / "days").mkdir()
    (one.folder / "days" / "day.csv").write_text("timestamp,rps\n" + rows)
    return one


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    one = made(tmp_path_factory.mktemp("base") / "env", wheel)
    done = one.harmony("replay", "day.csv", "--policy", "static", "--out", "run")
    assert done.returncode == 0, done.stderr
    tiny = ("--steps", "1", "--horizon", "2", "--lookback", "96", "--patch", "2")
    done = one.harmony("train", "hours.csv", "--out", "dense", "--temporal-attention", "sdpa", *tiny)
    assert done.returncode == 0, done.stderr
    return one


@pytest.fixture(scope="module")
def with_api(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return made(tmp_path_factory.mktemp("api") / "env", wheel, "api")


@pytest.fixture(scope="module")
def with_controller(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return made(tmp_path_factory.mktemp("controller") / "env", wheel, "controller")


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a verb that cannot answer; fails for a traceback, and for anything said besides."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("harmony: ")
    return line


def verbs(command: Any, name: str) -> Iterator[str]:
    """Names of every command that does something."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name
    else:
        for word, sub in inner.items():
            yield from verbs(sub, f"{name} {word}")


def test_every_verb_is_tried() -> None:
    assert set(WORDS) == set(verbs(typer.main.get_command(app), "harmony"))


def test_the_wheel_holds_the_packages_and_what_they_read(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0] for n in names if ".dist-info" not in n} == {
        "harmony", "forecasting", "kernels", "controller", "simulator",
    }  # fmt: skip
    for folder, ending in (("harmony", "py.typed"), ("harmony/dashboard", ".html.j2"), ("forecasting", ".safetensors")):
        assert any(n.startswith(folder) and n.endswith(ending) for n in names), (folder, ending)


def test_the_environment_is_ours_and_bare(base: Fresh) -> None:
    for name in ("fastapi", "httpx2", "aiohttp", "kubernetes", "sqlalchemy", "pytest", "lightgbm", "numba"):
        assert base.run(base.python, "-c", f"import {name}").returncode == 1, name
    where = base.run(base.python, "-c", "import harmony; print(harmony.__file__)").stdout
    assert where.startswith(str(base.folder))


def test_help_asks_for_no_heavy_library(base: Fresh) -> None:
    done = base.run(base.python, "-X", "importtime", base.folder / "bin" / "harmony", "--help")
    assert done.returncode == 0
    assert "what-if" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "scipy", "polars", "matplotlib", "nflows", "jinja2", "kernels"}


@pytest.mark.parametrize("name", ALL)
def test_a_verb_of_the_base_answers(name: str, base: Fresh) -> None:
    done = base.harmony(*name.split()[1:], *ALL[name])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_any_other_verb_says_what_to_install(name: str, base: Fresh) -> None:
    line = told(base.harmony(*name.split()[1:], *WORDS[name]))
    assert line.endswith(f"which is not installed: pip install 'harmony-autoscaler[{NEEDS[name]}]'")


@pytest.mark.parametrize("name", ["harmony serve", "harmony services", "harmony doctor", "harmony backtest"])
def test_it_says_so_too_where_only_the_other_extra_is(name: str, with_api: Fresh, with_controller: Fresh) -> None:
    other = with_controller if NEEDS[name] == "api" else with_api
    assert f"harmony-autoscaler[{NEEDS[name]}]" in told(other.harmony(*name.split()[1:], *WORDS[name]))


def test_a_server_with_a_cluster_asks_for_both(base: Fresh, with_api: Fresh) -> None:
    for one in (base, with_api):
        line = told(one.harmony("serve", "--cluster", "--kubeconfig", "/nowhere/config"))
        assert line.endswith("pip install 'harmony-autoscaler[api,controller]'")


@pytest.mark.parametrize("name", sorted(f"harmony {verb}" for verb in CONTROLLER))
def test_with_the_extra_a_verb_of_the_cluster_answers(name: str, with_controller: Fresh) -> None:
    done = with_controller.harmony(*name.split()[1:], *WORDS[name])
    assert "Traceback" not in done.stderr
    assert "not installed" not in done.stderr
    if name == "harmony crd":
        assert (done.returncode, done.stderr) == (0, "")
        assert "gpuautoscalers" in done.stdout
    elif name == "harmony doctor":  # it says what failed
        assert done.returncode == 1
        assert "there is no kubeconfig at /nowhere/config" in done.stdout
    else:
        told(done)


@pytest.mark.parametrize("name", sorted(f"harmony {verb}" for verb in API - {"serve"}))
def test_with_the_extra_a_verb_of_the_api_answers(name: str, with_api: Fresh) -> None:
    done = with_api.harmony(*name.split()[1:], *WORDS[name])
    assert "Traceback" not in done.stderr
    assert "not installed" not in done.stderr
    assert done.returncode == 0 or told(done)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture
def demo(with_api: Fresh) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [with_api.folder / "bin" / "harmony", "serve", "--demo", "--services", "1", "--port", str(port)],
        cwd=with_api.folder,
        env={"PATH": os.environ["PATH"], "HOME": str(with_api.folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Stop with"):
                break
        assert process.poll() is None, said
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def test_the_demo_serves_and_the_verbs_speak_with_it(demo: str, with_api: Fresh) -> None:
    with urllib.request.urlopen(f"{demo}/", timeout=30) as page:
        assert b"serving/chat" in page.read()
    rows = json.loads(with_api.harmony("services", "--url", demo, "--json").stdout)
    assert [row["service"] for row in rows] == ["serving/chat"]
    assert with_api.harmony("what-if", "serving/chat", "--max-replicas", "1", "--url", demo).returncode == 0
    until_s = time.monotonic() + PATIENCE_S
    while (done := with_api.harmony("explain", "serving/chat", "--url", demo)).returncode != 0:
        assert time.monotonic() < until_s, done.stderr
    assert "Decided again from the journal: the same" in done.stdout


def test_the_readme_says_how_to_install_it() -> None:
    text = (ROOT / "README.md").read_text()
    for line in (
        "pip install harmony-autoscaler",
        "pip install 'harmony-autoscaler[api]'",
        "download.pytorch.org/whl/cpu",
    ):
        assert line in text, line
