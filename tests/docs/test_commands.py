"""Every `harmony` command on a page is understood, and those that need no cluster are run."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import polars
import pytest
from from_cli import cli_page, verbs

from harmony.cli.main import run
from tests.docs.pages import Command, commands, harmony_in, mentions

START = 1_767_571_200  # Monday, 2026-01-05
VERBS = dict(verbs())
# These need no cluster, no Prometheus and no server, and take seconds. The other verbs have their own tests; here they
# are asked whether they understand the words.
LOCAL = {"replay", "traces", "forecast", "crd"}


def leaf(words: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The verb that these words name, and the words after it."""
    for length in (2, 1):
        found = VERBS.get(" ".join(("harmony", *words[:length])))
        if found is not None:
            return found, words[length:]
    raise AssertionError(f"no verb in {' '.join(words)!r}; there are {', '.join(VERBS)}")


def known_options(verb: Any) -> set[str]:
    return {o for p in verb.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


@pytest.mark.parametrize("command", commands(), ids=lambda c: f"{c.place}-{' '.join(c.words[:2])}")
def test_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMONY_JOURNAL_URL", "sqlite:///journal.db")  # as in the chart's pods, where some are run
    if command.words in {("--help",), ("--version",)}:
        return
    verb, rest = leaf(command.words)
    with verb.make_context("harmony", list(rest)) as context:
        assert context.params


def test_there_are_commands() -> None:
    assert len(commands()) > 40
    assert {c.place.partition(":")[0] for c in commands()} >= {
        "README.md",
        "docs/install.md",
        "docs/faq.md",
        "docs/evaluation.md",
    }


@pytest.mark.parametrize(("page", "text"), mentions())
def test_verbs_and_options_in_sentences_exist(page: str, text: str) -> None:
    (words,) = harmony_in(text)
    if words[0].startswith("--"):
        assert words[0] in {"--help", "--version", "--install-completion"}
        return
    if words[0] == "traces" and (len(words) == 1 or "|" in words[1]):
        return
    verb, rest = leaf(words)
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert used <= known_options(verb), page


def test_help_texts_give_commands_that_are_understood() -> None:
    examples = [line[2:] for line in cli_page().splitlines() if line.startswith("$ ")]
    assert len(examples) > 15
    for text in examples:
        (words,) = harmony_in(text)
        verb, rest = leaf(words)
        with verb.make_context("harmony", list(rest)) as context:
            assert context.params, text


# ---- running ----------------------------------------------------------------------------------------------------
def is_run(command: Command) -> bool:
    return command.words[0] in LOCAL


def runnable() -> list[tuple[str, ...]]:
    return sorted({c.words for c in commands() if is_run(c)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages speak of: small, and in the shape they describe."""
    path = tmp_path_factory.mktemp("reader")
    rows = range(2 * 1440)
    swing = [20 + 12 * math.sin(2 * math.pi * i / 1440) + (i * 7919 % 11) / 5 for i in rows]
    usage = polars.DataFrame(
        {
            "timestamp": [START + 60 * i for i in rows],
            "rps": swing,
            "http:rate5m": swing,
            "errors": [i // 50 for i in rows],
        }
    )
    for name in ("usage.csv", "service.csv", "my-trace.csv", "small.csv"):
        usage.write_csv(path / name)
    requests = ["timestamp,prompt_tokens,output_tokens"]
    requests += [f"{START + 2.0 * i},{200 + i % 7 * 100},{50 + i % 5 * 20}" for i in range(9_000)]
    with gzip.open(path / "requests.csv.gz", "wt") as file:
        file.write("\n".join(requests) + "\n")
    values = [[START + 15 * i, str(5 + i % 9)] for i in range(600)]
    series = [{"metric": {"__name__": "requests", "model": "chat"}, "values": values}]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    (path / "answer.json").write_text(json.dumps(answer))
    (path / "simulator" / "data").mkdir(parents=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("words", runnable(), ids=" ".join)
def test_runs(words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if "--tune" in words:  # on two days, so that it takes seconds
        words = tuple("small.csv" if word == "synthetic" else word for word in words)
    if "--sweep" in words:  # two policies on two days
        small = {"synthetic": "small.csv", "scenario:flash-crowd": "service.csv"}
        words = (*(small.get(word, word) for word in words), "-p", "hpa", "-p", "oracle", "--resamples", "0")
    assert run(list(words)) == 0
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()


def test_most_commands_without_a_cluster_are_run() -> None:
    assert len(runnable()) >= 12
