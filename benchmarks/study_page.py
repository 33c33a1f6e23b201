"""Photographs the pages of a preference study in a headless Chromium, at the size of a desktop and of a phone.

The two arms are the digits of a miniature drawn with 3 steps and with 20. It takes a minute, and needs Chromium and its
chromedriver (Debian: ``apt-get install chromium chromium-driver``) and the extra ``dev``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: Width and height in CSS pixels, pixels per CSS pixel, and whether it is a phone.
DESKTOP, PHONE, SMALL_PHONE = (1280, 800, 1, False), (390, 844, 2, True), (320, 568, 2, True)


def why_no_browser() -> str | None:
    """What is missing of a Chromium that can be driven; None for nothing."""
    if not _chromium():
        return "there is no chromium or google-chrome"
    return None if shutil.which("chromedriver") else "there is no chromedriver"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextlib.contextmanager
def browser() -> Iterator[Chrome]:
    """A headless Chromium of the system's, with nothing fetched and nobody told."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(_chromium())
    # no sandbox: a container's root has none; /dev/shm is small there
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ):
        options.add_argument(word)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        driver.set_page_load_timeout(20)
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, screen: tuple[int, int, int, bool]) -> None:
    """Give the page a screen of this size; a phone's has touch and no mouse."""
    wide, high, scale, phone = screen
    metrics = {"width": wide, "height": high, "deviceScaleFactor": scale, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})


def photograph(driver: Chrome, out: Path) -> Path:
    """Write what the screen shows as a PNG."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    out.write_bytes(base64.b64decode(shot["data"]))
    return out


@contextlib.contextmanager
def served(study: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``pcpo study serve`` in a process of its own: its address, and the process."""
    command = [sys.executable, "-m", "pcpo_overlay", "study", "serve", str(study), *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{' '.join(command)}: {process.stderr.read()}")
        try:
            yield address, process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=20)


def run(out: Path) -> None:
    """Draw, make the study, serve it, and write ``study-desktop.png`` and ``study-phone.png``."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def pcpo(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "pcpo_overlay", *words], check=True, cwd=ROOT)

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept:
        study = str(Path(kept) / "study")
        folders = [str(Path(kept) / name) for name in ("few", "many")]
        for folder, steps in zip(folders, ("3", "20"), strict=True):
            words = [
                "sample",
                "--model",
                "miniature-sd",
                "--prompts",
                "digits",
                "--seeds",
                "0-1",
                "--steps",
                steps,
            ]
            pcpo(*words, "--out", folder)
        pcpo("study", "make", *folders, "--pairs", "2", "--out", study)
        with served(Path(study), "--port", "0") as (address, _), browser() as driver:
            for name, screen in (("desktop", DESKTOP), ("phone", PHONE)):
                resize(driver, screen)
                driver.delete_all_cookies()
                driver.get(address)
                driver.find_element(By.CSS_SELECTOR, "button.main").click()
                WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.CSS_SELECTOR, "fieldset.next"))
                ActionChains(driver).send_keys(Keys.ARROW_RIGHT).perform()  # one of the three is chosen
                print(photograph(driver, out / f"study-{name}.png"))


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_page", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "figures", metavar="DIR")
    return parser.parse_args(words)


def main() -> int:
    args = _parse()
    missing = why_no_browser()
    if missing:
        print(
            f"study_page: {missing}; Debian has both: apt-get install chromium chromium-driver",
            file=sys.stderr,
        )
        return 1
    run(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
