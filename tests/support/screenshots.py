"""The pictures of reports in docs/; `make pictures`.

    python -m tests.support.screenshots

Trains docker/smoke.json, docker/failing.json and spec.json as any user does, and takes pictures of
the report of the first, light and dark, and of the report of the others side by side.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.support.browser import browser, open_page
from tests.support.command import ROOT, environment

PICTURES = ROOT / "docs" / "pictures"
WIDTH = 960


def python(*arguments: str | Path) -> None:
    """Run a command of this repository; a gate may fail."""
    command = [sys.executable, "-m", *map(str, arguments)]
    code = subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    ).returncode
    assert code in (0, 6), (command, code)


def photograph(chromium: Browser, file: Path, name: str, theme: str, until: str) -> None:
    """Take a picture of the page from its top to the section `until`."""
    with open_page(chromium, file, WIDTH, theme) as opened:
        end = opened.page.locator(until).bounding_box()
        assert end is not None
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] - 8, "scale": 1}
        # Chromium's own way, as playwright's writes no WebP: a PNG is twice as large.
        session = opened.page.context.new_cdp_session(opened.page)
        options = {"format": "webp", "quality": 84, "clip": clip, "captureBeyondViewport": True}
        taken = session.send("Page.captureScreenshot", options)
    path = PICTURES / f"{name}.webp"
    path.write_bytes(base64.b64decode(taken["data"]))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made, browser() as chromium:
        folder = Path(made)
        specs = {"smoke": "docker/smoke.json", "failing": "docker/failing.json"}
        for name, spec in (specs | {"jade": "spec.json"}).items():
            python("job", "run", ROOT / spec, "--store", folder / "runs", "--run-id", name)
        smoke, failing, jade = (folder / "runs" / n / n for n in ("smoke", "failing", "jade"))
        python("deploy.report", failing, jade, "-o", folder / "both.html")
        for theme in ("light", "dark"):
            photograph(chromium, smoke / "report.html", f"report-{theme}", theme, "#weights")
        photograph(chromium, folder / "both.html", "reports", "light", "#gradients")


if __name__ == "__main__":
    main()
