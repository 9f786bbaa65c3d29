"""`harmony serve`: API and dashboard over a loop (demo, cluster) or over a journal that others write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.process.settings import ControllerSettings
from harmony.app.settings import DemoSettings, DoorSettings, JournalSettings, ListenSettings
from harmony.cli.extras import needing
from harmony.cli.options import with_settings

__all__ = ["serve"]


@with_settings
def serve(
    demo: Annotated[bool, typer.Option("--demo", help="Serve a simulated cluster under the real loop.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Run the Kubernetes controller in this process.")] = False,
    journal: JournalSettings = JournalSettings(),
    listening: ListenSettings = ListenSettings(),
    door: DoorSettings = DoorSettings(),
    simulated: DemoSettings = DemoSettings(),
    reports: Annotated[Path | None, typer.Option(help="Folder with replay reports for the dashboard.")] = None,
    loop: ControllerSettings = ControllerSettings(
        metrics_address="", health_address="", log_format="text", log_level="warning"
    ),
) -> int:
    """Serve API and dashboard until stopped.

    Examples:
    `harmony serve --demo`

    `harmony serve --cluster --prometheus-url http://prometheus:9090 --journal sqlite:///harmony.db --address :8000`

    `harmony serve --journal postgresql://harmony@db/harmony --token-review --read-group developers`
    """
    from controller.process.logs import configure
    from harmony.app import serving

    configure(loop.log_format, loop.log_level)
    with needing("api", "controller") if cluster or door.token_review else needing("api"):
        return serving.serve(
            simulated if demo else None,
            loop,
            cluster=cluster,
            journal=journal,
            listening=listening,
            door=door,
            reports=reports,
        )
