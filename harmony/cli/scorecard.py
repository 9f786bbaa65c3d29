"""`harmony scorecard`: forecast and decision beside rivals, as a page that anybody can recount."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harmony.app.settings import TraceSettings
from harmony.cli.options import with_settings

__all__ = ["scorecard"]


@with_settings
def scorecard(
    trace: Annotated[
        list[str] | None, typer.Argument(help="Trace files, your own history among them; by default the bundled trace.")
    ] = None,
    demand: Annotated[str | None, typer.Option(help="Column that replicas are counted for.")] = None,
    reading: TraceSettings = TraceSettings(),
    replica_capacity: Annotated[
        float | None, typer.Option(help="Demand that one ready replica carries, in the demand's unit.")
    ] = None,
    epsilon: Annotated[float, typer.Option(help="A tolerated violation probability, such as 0.01.")] = 0.01,
    lead_time: Annotated[str, typer.Option(help="Time until a new replica is ready, such as 5m.")] = "5m",
    policy: Annotated[
        list[str] | None, typer.Option(help="Policy to compare (repeat); HARMONY and its usual rivals by default.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose every policy's settings on the part before the scored one.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    evidence: Annotated[Path, typer.Option(help="Folder of all evidence: RELEASE/TRACE/ below it.")] = Path("evidence"),
    page: Annotated[Path, typer.Option(help="The page (Markdown) to write.")] = Path("scorecard.md"),
    release: Annotated[str, typer.Option(help="Name of the release; that of this installation by default.")] = "",
    page_only: Annotated[bool, typer.Option("--page-only", help="Replay nothing: the page of what is there.")] = False,
) -> None:
    """Replay traces under HARMONY and its rivals, keep what happened, and write the page of all releases.

    The page is made of the kept steps alone; a figure that they do not give is refused.

    Examples:
    `harmony scorecard`

    `harmony scorecard usage.csv --demand rps --replica-capacity 25`

    `harmony scorecard --page-only --page docs/scorecard.md`
    """
    import harmony
    from forecasting.errors import UsageError
    from harmony.app.scorecard import RIVALS, gather, write_page
    from harmony.app.written import start_up
    from harmony.cli.showing import progress
    from harmony.model.objective import Objective
    from simulator.replaying import ReplaySettings
    from simulator.sweep.study import TraceChoice

    if page_only and trace:
        raise UsageError(f"--page-only replays nothing; leave out {trace[0]!r}")
    settings = ReplaySettings(
        replica_capacity=replica_capacity,
        start_up=start_up(lead_time),
        objective=Objective(epsilon=epsilon),
        tune=tune,
        seed=seed,
    )
    read = tuple(reading.reading.items())
    for name in [] if page_only else trace or ["synthetic"]:
        loaded = TraceChoice(name, demand=demand, step_s=reading.step_s, reading=read).loaded()
        with progress("scorecard") as report:
            folder = gather(loaded, policy or RIVALS, settings, evidence, release or harmony.__version__, report)
        print(f"evidence: {folder}")
    write_page(evidence, page)
    print(f"page: {page}")
