"""Pictures for the documentation: `python -m tests.dashboard.screenshots [FOLDER]` writes them from the demo."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from harmony.api.app import create_app
from harmony.api.state import ApiState
from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings
from simulator.demo import DemoCluster
from tests.api.serving import serving
from tests.dashboard.conftest import ARGUMENTS, CHROMIUM
from tests.dashboard.site import OPEN

FOLDER = Path(__file__).parents[2] / "docs" / "images"
TURNS = 75
MOST_BYTES = 250_000
SERVICE = "/services/serving/chat"
# name, path, theme, width, height of the window, whole page, scale
PICTURES = (
    ("fleet-light", "/", "light", 1280, 720, False, 1.5),
    ("fleet-dark", "/", "dark", 1280, 720, False, 1.5),
    ("service-light", SERVICE, "light", 1280, 900, True, 1.0),
    ("service-dark", SERVICE, "dark", 1280, 900, True, 1.0),
    ("phone", SERVICE, "light", 360, 780, False, 2.0),
)


def shoot(browser: Browser, url: str, folder: Path) -> None:
    """Write all pictures."""
    for name, path, theme, width, height, whole, scale in PICTURES:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=scale
        )
        page = context.new_page()
        page.goto(url + path)
        page.wait_for_timeout(3000)
        shot = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
        file = folder / f"dashboard-{name}.png"
        shot.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{file}: {file.stat().st_size} bytes, expected at most {MOST_BYTES}")
        context.close()


def main(folder: Path = FOLDER) -> None:
    """The demo after an hour of its time."""
    demo = DemoCluster()
    state = ApiState(demo.hub, settings=dashboard_settings(OPEN))
    app = create_app(state)
    dashboard = Dashboard(state, speed=demo.speed)
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
    main(*map(Path, sys.argv[1:2]))
