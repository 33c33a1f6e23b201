"""The pages of a study in a real Chromium: on a desktop by keyboard, on a phone by touch, without and with a server.

They are skipped, with the reason, where there is no Chromium with its chromedriver (Debian: ``apt-get install chromium
chromium-driver``); ``PCPO_REQUIRE_BROWSER=1`` turns that skip into a failure.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from test_study import made, votes_of

from benchmarks.study_page import (
    DESKTOP,
    PHONE,
    SMALL_PHONE,
    browser,
    photograph,
    resize,
    served,
    why_no_browser,
)

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    reason = why_no_browser()
    if reason and os.environ.get("PCPO_REQUIRE_BROWSER") == "1":
        pytest.fail(f"PCPO_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(f"needs a browser: {reason}")
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def address(chrome: Chrome, study: Path) -> Iterator[str]:
    """Of one server that several tests share; each forgets its participant."""
    with served(study, "--port", "0") as (at, _):
        yield at


@pytest.fixture(autouse=True)
def fresh(chrome: Chrome) -> None:
    chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})


def wait(driver: Chrome, until: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(
        driver, 20, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
    )
    return waiting.until(lambda _: until())


def all_of(driver: Chrome, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def text(driver: Chrome) -> str:
    return str(driver.execute_script("return document.body.innerText"))


def picked(driver: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('input:checked')].map(i => i.value)"
    return list(driver.execute_script(script))


def press(driver: Chrome, *names: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(driver).send_keys(*(getattr(Keys, name) for name in names)).perform()


def tap(driver: Chrome, selector: str, which: int = 0) -> None:
    """A finger at the middle of an element, which has to be on the screen."""
    script = """
      const box = document.querySelectorAll(arguments[0])[arguments[1]].getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2, innerWidth, innerHeight]"""
    x, y, wide, high = driver.execute_script(script, selector, which)
    assert 0 < x < wide and 0 < y < high, f"{selector} is not on the screen"
    driver.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
    )
    driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def opened(driver: Chrome, address: str, screen: tuple[int, int, int, bool]) -> None:
    resize(driver, screen)
    driver.get(address)
    wait(driver, lambda: all_of(driver, "button.main"))


def pair(driver: Chrome, number: int) -> None:
    """Wait for a pair and its pictures."""
    complete = "return [...document.querySelectorAll('.picture img')].filter(i => i.complete && i.naturalWidth).length"
    wait(driver, lambda: f"Pair {number} of" in text(driver) and driver.execute_script(complete) == 2)
    wait(driver, lambda: all_of(driver, "fieldset.next") or len(picked(driver)) == 3)  # the script has begun


def test_a_desktop_by_keyboard_through_reloads_and_the_end(chrome: Chrome, study: Path, address: str) -> None:
    before = votes_of(study)
    opened(chrome, address, DESKTOP)
    press(chrome, "ENTER")  # Begin has the focus
    pair(chrome, 1)
    assert chrome.execute_script("return document.documentElement.scrollHeight <= innerHeight")
    press(chrome, "ARROW_LEFT", "ARROW_DOWN", "BACKSPACE", "ARROW_RIGHT")
    assert picked(chrome) == ["left", "right"]
    press(chrome, "ENTER")  # one is missing: nothing is sent
    source = all_of(chrome, ".picture img")[0].get_attribute("src")
    chrome.refresh()
    pair(chrome, 1)
    assert picked(chrome) == ["left", "right"] and votes_of(study) == before
    assert all_of(chrome, ".picture img")[0].get_attribute("src") == source
    press(chrome, "ARROW_DOWN", "ENTER")
    pair(chrome, 2)
    mine = votes_of(study)[len(before) :]
    assert [v.choice for v in mine] == ["left", "same", "right"]  # by category's name
    assert all_of(chrome, "progress")[0].get_attribute("value") == "1" and picked(chrome) == []
    chrome.back()  # nothing to go back to answer again
    opened(chrome, address, DESKTOP)
    pair(chrome, 2)
    for number in range(2, 6):
        pair(chrome, number)
        press(chrome, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT", "ENTER")
    wait(chrome, lambda: "Thank you" in text(chrome))
    chrome.refresh()
    wait(chrome, lambda: "Thank you" in text(chrome))
    assert len(votes_of(study)) == len(before) + 15


@pytest.mark.parametrize("screen", [PHONE, SMALL_PHONE], ids=["390x844", "320x568"])
def test_a_phone_by_touch(
    chrome: Chrome, study: Path, address: str, tmp_path: Path, screen: tuple[int, int, int, bool]
) -> None:
    before = votes_of(study)
    opened(chrome, address, screen)
    assert chrome.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    chrome.execute_script("document.querySelector('button.main').scrollIntoView()")
    tap(chrome, "button.main")
    pair(chrome, 1)
    assert chrome.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    if screen == PHONE:  # all of a pair at a glance
        assert chrome.execute_script("return document.documentElement.scrollHeight <= innerHeight")
    assert min(one.size["height"] for one in all_of(chrome, ".choices label, .main")) >= 44
    wide = [image.size["width"] for image in all_of(chrome, ".picture img")]
    assert wide[0] == wide[1] and wide[0] > screen[0] / 2.5
    tap(chrome, ".picture", 1)
    wait(chrome, lambda: all_of(chrome, "dialog[open]"))
    large = all_of(chrome, "dialog img")[0]
    assert large.size["width"] > 1.9 * wide[0]
    assert large.get_attribute("src") == all_of(chrome, ".picture img")[1].get_attribute("src")
    tap(chrome, "dialog img")
    wait(chrome, lambda: not all_of(chrome, "dialog[open]"))
    for which in (0, 4, 3, 8):  # left, same, then left in its place, right
        chrome.execute_script(f"document.querySelectorAll('.choices label')[{which}].scrollIntoView(false)")
        tap(chrome, ".choices label", which)
    wait(chrome, lambda: picked(chrome) == ["left", "left", "right"])
    photograph(chrome, tmp_path / "phone.png")
    chrome.execute_script("document.querySelector('.main').scrollIntoView(false)")
    tap(chrome, "form.question .main")
    pair(chrome, 2)
    assert [(v.category, v.choice) for v in votes_of(study)[len(before) :]] == [
    ("overall", "left"), ("prompt", "right"), ("quality", "left")
    ]  # fmt: skip


def test_an_answer_outlives_a_kill_of_the_server(chrome: Chrome, tmp_path: Path) -> None:
    study = made(tmp_path)
    with served(study, "--port", "0") as (address, server):
        opened(chrome, address, DESKTOP)
        press(chrome, "ENTER")
        pair(chrome, 1)
        press(chrome, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
        server.send_signal(signal.SIGKILL)
        server.wait(20)
        press(chrome, "ENTER")
        wait(chrome, lambda: "Your answer is kept here and sent again" in text(chrome))
        press(chrome, "ARROW_LEFT", "BACKSPACE", "ENTER")  # it is on its way, and stays as it is
        assert votes_of(study) == []
    with served(study, "--port", str(httpx.URL(address).port)):
        pair(chrome, 2)  # by itself
    assert [v.choice for v in votes_of(study)] == ["right"] * 3
