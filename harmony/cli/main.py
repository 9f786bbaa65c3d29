"""`harmony`: the command line. Users' mistakes end in one line and exit code 2, bugs in a traceback."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

import harmony
from forecasting.errors import HarmonyError
from harmony.cli import controller as cluster_verbs
from harmony.cli import forecasting as forecasting_verbs
from harmony.cli.backtest import backtest
from harmony.cli.bench import bench_app
from harmony.cli.crd import crd
from harmony.cli.evaluation import evaluate
from harmony.cli.explain import explain, journal_app
from harmony.cli.keys import keys_app
from harmony.cli.plan import plan
from harmony.cli.remote import decisions, services, what_if
from harmony.cli.replay import replay
from harmony.cli.report import report
from harmony.cli.scorecard import scorecard
from harmony.cli.serve import serve
from harmony.cli.slo import slo
from harmony.cli.traces import traces_app
from harmony.cli.windows import windows

__all__ = ["app", "main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells count

# typer carries its own copy of click in newer versions; this is its UsageError wherever it lives.
USAGE_ERROR: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="harmony",
    help="Forecast jointly, decide under a stated risk, scale GPU services.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("replay")(replay)
app.command("report")(report)
app.command("plan")(plan)
app.command("slo")(slo)
app.command("scorecard")(scorecard)
app.add_typer(traces_app, name="traces")
app.command("train")(forecasting_verbs.train)
app.command("forecast")(forecasting_verbs.forecast)
app.command("evaluate")(evaluate)
app.command("windows")(windows)
app.command("backtest")(backtest)
app.add_typer(bench_app, name="bench")
app.command("controller")(cluster_verbs.controller)
app.command("recommend")(cluster_verbs.recommend)
app.command("doctor")(cluster_verbs.doctor)
app.command("crd")(crd)
app.command("serve")(serve)
app.command("explain")(explain)
app.add_typer(journal_app, name="journal")
app.add_typer(keys_app, name="keys")
app.command("services")(services)
app.command("decisions")(decisions)
app.command("what-if")(what_if)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"harmony {harmony.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Forecast jointly, decide under a stated risk, scale GPU services."""


def main() -> None:
    """Run the command line and exit: 0 fine, 1 the answer is no, 2 bad input or usage, 130 interrupted."""
    # The models are small: a second thread wins little on idle cores and loses a lot on busy ones.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with ``arguments``; returns the exit code."""
    try:
        code = app(arguments, standalone_mode=False)
    except HarmonyError as error:
        print(f"harmony: {error}", file=sys.stderr)
        return 2
    except USAGE_ERROR as error:
        where = f" (see: {error.ctx.command_path} --help)" if error.ctx is not None else ""
        print(f"harmony: {' '.join(error.format_message().split())}{where}", file=sys.stderr)
        return 2
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    if code == INTERRUPTED:  # typer turns some interrupts into this return value itself
        print("harmony: interrupted; nothing was written", file=sys.stderr)
    return int(code) if isinstance(code, int) else 0
