"""The dashboard in headless Chromium, over `beammeter serve` with its local pipeline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from service.dashboard_routes import POLICY
from tests.conftest import or_skip
from tests.service.world import CATALOG, SCRIPT, World
from tests.services.fetch import Unavailable

ROOT = Path(__file__).parents[2]
PATIENCE = 60
GENEROUS = 30
"""Seconds on a machine with other work; benchmarks/README.md has the figure."""
MADE = "return document.querySelectorAll('#main script, img[src=x]').length"
pytestmark = pytest.mark.services


def programs() -> tuple[str, str]:
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        raise Unavailable("chromium and chromedriver must be on PATH (apt-get install chromium)")
    return found[0], found[1]


@dataclass
class Site:
    """A running server."""

    url: str
    key: str

    def send(self, **event: Any) -> None:
        """As curl does."""
        request = urllib.request.Request(
            f"{self.url}/v1/events",
            json.dumps(event).encode(),
            {"x-api-key": self.key, "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 202


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "catalog.yaml").write_text(yaml.safe_dump(CATALOG), "utf-8")
    words = ["--catalog", "catalog.yaml", "--clickhouse", f"chdb://{folder}/warehouse"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "serve", *words, "--port", "0"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line.split()[-1] for line in lines if "listening at" in line)
        yield Site(url, (folder / "beammeter-keys.json.first").read_text().strip())
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = or_skip(programs)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Driver(driver))
    yield opened
    opened.quit()


def until(check: Callable[[], object]) -> float:
    """Waits for a condition; how many seconds it took."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < PATIENCE, "the condition must come true"
        time.sleep(0.05)
    return time.monotonic() - began


def text(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def sign_in(browser: webdriver.Chrome, site: Site) -> None:
    browser.get(f"{site.url}/dashboard")
    until(lambda: browser.find_elements(By.NAME, "key") or "Overview" in text(browser))
    fields = browser.find_elements(By.NAME, "key")
    if fields:
        fields[0].send_keys(site.key, Keys.ENTER)
    until(lambda: "Newest events" in text(browser))


def test_an_event_that_is_sent_shows_while_one_looks(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    site.send(event_name="call", external_customer_id="acme", event_id="warm-up")
    until(lambda: "warm-up" in text(browser))
    site.send(event_name="call", external_customer_id="acme", event_id="the-one")
    took = until(lambda: "the-one" in text(browser))
    assert took < GENEROUS


def test_an_event_with_a_script_tag_is_text(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    site.send(
        event_name=SCRIPT, external_customer_id="<img src=x onerror=alert(2)>", event_id="shown"
    )
    until(lambda: SCRIPT in text(browser))
    assert (
        browser.execute_script(
            "return document.querySelectorAll('#main script, img[src=x]').length"
        )
        == 0
    )
    browser.get(f"{site.url}/dashboard#/events/shown")
    until(lambda: "An event's way" in text(browser) and SCRIPT in text(browser))
    assert (
        browser.execute_script(
            "return document.querySelectorAll('#main script, img[src=x]').length"
        )
        == 0
    )


def test_every_page_shows_and_nothing_breaks_the_policy(
    browser: webdriver.Chrome, site: Site
) -> None:
    sign_in(browser, site)
    browser.get_log("browser")
    pages = {
        "/": "Overview",
        "/usage": "Usage",
        "/customers": "Customers",
        "/customers/acme": "spent to date",
        "/invoices": "No invoice",
        "/events": "Give the id of an event",
        "/quarantine": "Quarantine",
        "/pipeline": "Checks",
    }
    for path, words in pages.items():
        browser.get(f"{site.url}/dashboard#{path}")
        until(lambda words=words: words in text(browser))  # type: ignore[misc]
    said = [each["message"] for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    assert not said


def test_the_page_is_walked_by_keyboard_and_named_for_screen_readers(
    browser: webdriver.Chrome, site: Site
) -> None:
    sign_in(browser, site)
    browser.refresh()
    until(lambda: browser.find_elements(By.TAG_NAME, "select"))
    unnamed = browser.execute_script(
        """return [...document.querySelectorAll('button, a, input, select, [role=img]')].filter(
            e => !(e.innerText || e.getAttribute('aria-label') || e.closest('label')?.innerText)
        ).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("class") == "skip"
    browser.find_element(By.CSS_SELECTOR, "#nav a[data-section=usage]").send_keys(Keys.ENTER)
    until(lambda: "hours, days and periods" in text(browser))
    assert browser.find_element(By.CSS_SELECTOR, "[aria-current=page]").text == "Usage"


def test_a_page_fits_a_phone(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
        )
        for path in ("/", "/usage", "/customers/acme", "/pipeline"):
            browser.get(f"{site.url}/dashboard#{path}")
            until(lambda: len(text(browser)) > 200)
            wide = "return document.documentElement.scrollWidth"
            assert browser.execute_script(wide) <= 360, path
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_signing_out_ends_the_session(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    browser.find_element(By.ID, "leave").click()
    until(lambda: browser.find_elements(By.NAME, "key"))
    browser.refresh()
    until(lambda: browser.find_elements(By.NAME, "key"))


def test_a_session_is_a_cookie_that_no_script_reads_and_no_other_site_sends(world: World) -> None:
    client = world.client
    key = world.key("read")
    page = {"x-beammeter-page": "1"}
    assert client.post("/dashboard/login", json={"key": key}).status_code == 403
    for wrong in ("nothing", world.key("write"), world.key("admin", tenant="other")):
        assert client.post("/dashboard/login", json={"key": wrong}, headers=page).status_code == 401
    got = client.post("/dashboard/login", json={"key": key}, headers=page)
    cookie = got.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert key not in cookie
    try:
        assert client.get("/v1/catalog").status_code == 200
        assert client.get("/dashboard/session").json() == {
            "tenant": world.tenant.name,
            "rights": ["read"],
        }
        # A form on another site sends the cookie perhaps, and never the header.
        assert client.post("/v1/events", json={}).status_code in (401, 404)
        world.keys.revoke(
            next(each.id for each in world.keys.all() if world.keys.find(key) == each)
        )
        world.keys._checked = 0.0
        assert client.get("/v1/catalog").status_code == 401
    finally:
        client.cookies.clear()


def test_the_page_has_a_policy_without_inline_scripts_and_its_files_alone(world: World) -> None:
    page = world.client.get("/dashboard")
    assert page.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "<style" not in page.text
    assert " style=" not in page.text
    assert page.text.count("<script") == page.text.count("<script src=")
    for name in ("../keys.py", "..%2fkeys.py", "vendor/../../keys.py", "nothing.js", "%00"):
        assert world.client.get(f"/dashboard/static/{name}").status_code == 404
    licence = world.client.get("/dashboard/static/vendor/LICENSE.txt")
    assert "MIT License" in licence.text
