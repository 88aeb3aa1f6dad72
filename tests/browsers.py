"""A real Chromium without a window, which a test drives and reads."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome


@contextlib.contextmanager
def chromium(*arguments: str, width: int = 1200, height: int = 1000) -> Iterator[Chrome]:
    """Start Chromium, with a window of *width* x *height*. Raises FileNotFoundError where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            raise FileNotFoundError(2, "No such file or directory", program)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "headless=new",
        # The tests may run as root, in a container with a small /dev/shm.
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        # Nothing but the page.
        "disable-background-networking",
        "disable-component-update",
        "no-first-run",
        f"window-size={width},{height}",
        *arguments,
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def messages(driver: Chrome) -> list[dict[str, Any]]:
    """Return what the console has shown since the last call: errors of scripts, of the policy, of resources."""
    return driver.get_log("browser")  # type: ignore[no-any-return]
