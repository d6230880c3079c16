"""Headless Chromium, as this machine has it."""

from __future__ import annotations

import shutil

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver

from tests.services.fetch import Unavailable


def headless() -> webdriver.Chrome:
    """A browser of its own; the caller quits it. Raises Unavailable where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise Unavailable("chromium and chromedriver must be on PATH (apt-get install chromium)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Driver(driver))
