"""Pictures for the documentation: `python -m tests.dashboard.screenshots [FOLDER [REPORTS]]` writes them from the demo.

REPORTS holds a folder `synthetic` of `harmony replay --out`; without it one is made, which takes a minute."""

from __future__ import annotations

import io
import sys
import tempfile
import threading
from itertools import product
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from harmony.api.app import create_app
from harmony.api.state import ApiState
from harmony.cli.main import run
from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings
from simulator.demo import DemoCluster
from tests.api.serving import serving
from tests.dashboard.conftest import ARGUMENTS, CHROMIUM
from tests.dashboard.site import OPEN

FOLDER = Path(__file__).parents[2] / "docs" / "images"
TURNS = 75
MOST_BYTES = 250_000
SERVICE = "/services/serving/chat"
REPORT = "synthetic"
COMPARED = ("harmony", "hpa", "reactive", "oracle")
# name, path, whole page
PAGES = (
    ("fleet", "/", False),
    ("service", SERVICE, True),
    ("report", f"/reports/{REPORT}/report.html", False),
)
# name, width, height of the window, scale
WINDOWS = (("", 1440, 900, 1.0), ("-phone", 390, 844, 2.0))
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def shoot(browser: Browser, url: str, folder: Path) -> None:
    """Write all pictures."""
    for (name, path, whole), (window, width, height, scale), theme in product(PAGES, WINDOWS, THEMES):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=scale
        )
        page = context.new_page()
        page.goto(url + path)
        page.wait_for_timeout(3000)
        shot = Image.open(io.BytesIO(page.screenshot(full_page=whole and not window)))
        file = folder / f"dashboard-{name}{window}-{theme}.png"
        shot.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{file}: {file.stat().st_size} bytes, expected at most {MOST_BYTES}")
        context.close()


def main(folder: Path = FOLDER, reports: Path | None = None) -> None:
    """The demo after an hour of its time, and a report of the bundled trace."""
    if reports is not None:
        of_demo(reports, folder)
        return
    with tempfile.TemporaryDirectory() as made:
        flags = [word for policy in COMPARED for word in ("-p", policy)]
        assert run(["replay", "synthetic", *flags, "--out", f"{made}/{REPORT}"]) == 0
        of_demo(Path(made), folder)


def of_demo(reports: Path, folder: Path) -> None:
    """All pictures, of the demo with a folder of reports."""
    demo = DemoCluster()
    state = ApiState(demo.hub, settings=dashboard_settings(OPEN))
    app = create_app(state)
    dashboard = Dashboard(state, speed=demo.speed, reports=reports)
    add_dashboard(app, dashboard)
    demo.advance(TURNS)
    stop = threading.Event()
    living = threading.Thread(target=demo.run, args=(stop,))
    living.start()
    try:
        with serving(app) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            shoot(browser, url, folder)
            browser.close()
    finally:
        stop.set()
        living.join()
        dashboard.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
