"""A real Chromium without a window, and what the tests ask of a page."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser; it opens nothing but files and this machine."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on the path: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in [*FLAGS.split(), f"user-data-dir={profile}", "window-size=1400,900", "force-device-scale-factor=1"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


class Opened:
    """One page in the browser, ready: its newest step is shown."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.set_window_size(1400, 900)
        browser.get(address)
        self.until(lambda: self.js("return document.body.dataset.shown !== undefined"))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition; the limit only ends a test that failed."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 300, poll_frequency=0.02).until(lambda _: condition())

    def all(self, selector: str) -> list[str]:
        """The texts of the elements."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map((x) => x.textContent)", selector)  # type: ignore[no-any-return]

    def text(self, selector: str) -> str:
        return " ".join(self.all(selector))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.js("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)

    def click(self, selector: str, number: int = 0) -> None:
        self.js("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, number)

    def type(self, selector: str, text: str) -> None:
        """Types into a field, and waits until the list follows."""
        field = self.browser.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def colours(self, pane: int = 0) -> list[str]:
        """Background of each token that is an element."""
        script = (
            "return [...document.querySelectorAll('.tokens')[arguments[0]].querySelectorAll('span')].map((x) => x.style.background)"
        )
        return self.js(script, pane)  # type: ignore[no-any-return]

    def complaints(self) -> list[str]:
        """What the browser's console says."""
        return [entry["message"] for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]


def file(path: Path) -> str:
    return path.resolve().as_uri()
