"""The dashboard in headless Chromium, over `beammeter serve` with its local pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from service.dashboard_routes import POLICY
from service.keys import RIGHTS, KeyStore
from tests.conftest import or_skip
from tests.service.browsers import headless
from tests.service.world import CATALOG, SCRIPT, World

ROOT = Path(__file__).parents[2]
PATIENCE = 60
GENEROUS = 30
"""Seconds on a machine with other work; benchmarks/README.md has the figure."""
MADE = "return document.querySelectorAll('#main script, img[src=x]').length"
HERE = Path(__file__).parent
AXE = (HERE / "axe" / "axe.min.js").read_text("utf-8")
RENEWED = (HERE / "renewed.js").read_text("utf-8")
PAGES = {
    "/": "Top customers",
    "/usage": "hours, days and periods",
    "/customers": "In the catalog",
    "/customers/acme": "spent to date",
    "/invoices": "draft",
    "/events": "Give the id of an event",
    "/events/one": "An event's way",
    "/quarantine": "invalid_timestamp",
    "/pipeline": "Checks",
}
"""Each page, and words that it has once it shows something."""
PREPARE = """
from runners.cli import main
words = ["--catalog", "catalog.yaml", "--clickhouse", "{url}"]
main(["backfill", *words, "--input", "events.jsonl"])
main(["bill", *words, "--as-of", "2026-11-01T00:00:00Z"])
"""
SENT = [
    ("one", "acme", "2026-09-10T08:00:00Z"),
    ("two", "acme", "2026-09-10T09:00:00Z"),
    ("three", "acme", "2026-09-11T09:00:00Z"),
    ("wrong", "b/ra", "yesterday"),
    ("wrong too", "b/ra", "tomorrow"),
]
pytestmark = pytest.mark.services


@dataclass
class Site:
    """A running server with three calls of acme, its drafts, and two events that were refused."""

    url: str
    key: str
    reader: str

    def send(self, **event: Any) -> None:
        """As curl does."""
        request = urllib.request.Request(
            f"{self.url}/v1/events",
            json.dumps(event).encode(),
            {"x-api-key": self.key, "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 202

    def read(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"x-api-key": self.reader})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)


def line_of(sent: tuple[str, str, str]) -> str:
    event_id, customer, at = sent
    event = {"event_id": event_id, "event_name": "call", "external_customer_id": customer}
    properties = {"tokens": "1", "user": 1}
    times = {"timestamp": at, "ingested_at": "2026-09-12T00:00:00Z"}
    return json.dumps({**event, **times, "properties": properties}) + "\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "catalog.yaml").write_text(yaml.safe_dump(CATALOG), "utf-8")
    url = f"chdb://{folder}/warehouse"
    (folder / "events.jsonl").write_text("".join(map(line_of, SENT)), "utf-8")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    script = [sys.executable, "-c", PREPARE.format(url=url)]
    subprocess.run(script, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    keys = KeyStore(folder / "beammeter-keys.json")
    (_, key), (_, reader) = keys.create("default", RIGHTS), keys.create("default", ["read"])
    words = ["--catalog", "catalog.yaml", "--clickhouse", url, "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "serve", *words],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line.split()[-1] for line in lines if "listening at" in line)
        yield Site(url, key, reader)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    opened = or_skip(headless)
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


def sign_in(browser: webdriver.Chrome, site: Site, key: str | None = None) -> None:
    browser.get(f"{site.url}/dashboard")
    if key is not None:
        browser.delete_all_cookies()
        browser.refresh()
    until(lambda: browser.find_elements(By.NAME, "key") or "Overview" in text(browser))
    fields = browser.find_elements(By.NAME, "key")
    if fields:
        fields[0].send_keys(key or site.key, Keys.ENTER)
    until(lambda: "Newest events" in text(browser))


def show(browser: webdriver.Chrome, site: Site, path: str, words: str) -> None:
    browser.get(f"{site.url}/dashboard#{path}")
    until(lambda: words in text(browser))


@contextmanager
def as_on(browser: webdriver.Chrome, scheme: str, width: int) -> Iterator[None]:
    """The browser with a colour scheme and a width of the window."""
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 700}
    given = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", given)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def press(browser: webdriver.Chrome, words: str) -> None:
    buttons = browser.find_elements(By.TAG_NAME, "button")
    next(each for each in buttons if each.text == words).click()


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
    assert browser.execute_script(MADE) == 0
    browser.get(f"{site.url}/dashboard#/events/shown")
    until(lambda: "An event's way" in text(browser) and SCRIPT in text(browser))
    assert browser.execute_script(MADE) == 0


def test_every_page_shows_and_nothing_breaks_the_policy(
    browser: webdriver.Chrome, site: Site
) -> None:
    sign_in(browser, site)
    browser.get_log("browser")
    for path, words in PAGES.items():
        show(browser, site, path, words)
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


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_pages_fit_their_window_and_have_no_barrier_that_axe_knows(
    browser: webdriver.Chrome, site: Site, scheme: str, width: int
) -> None:
    """WCAG 2.2 AA as far as a program can tell: names, landmarks, contrast, sizes."""
    sign_in(browser, site)
    invoice = site.read("/v1/invoices?customer=acme")["items"][0]["invoice_id"]
    with as_on(browser, scheme, width):
        for path, words in {**PAGES, f"/invoices/{invoice}": "measured in"}.items():
            show(browser, site, path, words)
            wide = "return document.documentElement.scrollWidth"
            assert browser.execute_script(wide) <= width, path
            if not browser.execute_script("return typeof axe === 'object'"):
                browser.execute_script(AXE)
            found = browser.execute_async_script(
                """const done = arguments[arguments.length - 1];
                axe.run(document, {resultTypes: ["violations"]}).then((found) => done(
                    found.violations.flatMap((each) => each.nodes.map((node) =>
                        `${each.id}: ${node.html} ${node.failureSummary}`))),
                    (error) => done([String(error)]))"""
            )
            assert found == [], path


def test_what_is_renewed_is_as_if_it_were_made_anew_and_keeps_what_stays(
    browser: webdriver.Chrome, site: Site
) -> None:
    sign_in(browser, site)
    failures = browser.execute_async_script(RENEWED)
    assert failures == []


def test_what_is_paused_asks_for_nothing(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    asked = "return window.asked"
    browser.execute_script(
        """const plain = window.fetch;
        window.asked = 0;
        window.fetch = (...given) => { window.asked++; return plain(...given); };"""
    )
    until(lambda: browser.execute_script(asked) > 0)
    browser.find_element(By.ID, "pause").click()
    before = browser.execute_script(asked)
    time.sleep(2.5)
    assert browser.execute_script(asked) == before
    browser.find_element(By.ID, "pause").click()
    until(lambda: browser.execute_script(asked) > before)


def test_an_invoice_says_how_each_amount_comes_about(browser: webdriver.Chrome, site: Site) -> None:
    sign_in(browser, site)
    found = site.read("/v1/invoices?customer=acme")["items"][0]
    show(browser, site, f"/invoices/{found['invoice_id']}", "= €0.30")
    explained = site.read(f"/v1/invoices/{found['invoice_id']}/explanation?language=en")
    words = [word for line in explained["lines"] for word in line["words"]]
    assert len(words) > 3
    shown = text(browser)
    assert [word for word in words if word not in shown] == []
    assert f"{found['total']} EUR" in shown
    show(browser, site, "/customers/acme", "% of 100.00 EUR that is committed")


def test_a_refused_event_is_corrected_and_replayed_by_an_admin_alone(
    browser: webdriver.Chrome, site: Site
) -> None:
    sign_in(browser, site, site.reader)
    show(browser, site, "/quarantine?reason=invalid_timestamp", "timestamp must be")
    browser.find_element(By.CSS_SELECTOR, "details.row summary").click()
    until(lambda: '"yesterday"' in text(browser))
    assert "A replay needs a key with the right admin" in text(browser)
    buttons = [each.text for each in browser.find_elements(By.TAG_NAME, "button")]
    assert not [each for each in buttons if "replay" in each.lower()]
    assert not browser.find_elements(By.TAG_NAME, "textarea")
    refusal = """const done = arguments[arguments.length - 1];
        import("/dashboard/static/api.js").then(({post}) => post("/v1/quarantine/replay"))
            .then(() => done("taken"), (error) => done(error.status))"""
    assert browser.execute_async_script(refusal) == 403

    sign_in(browser, site, site.key)
    show(browser, site, "/quarantine?reason=invalid_timestamp", "timestamp must be")
    browser.find_element(By.CSS_SELECTOR, "details.row summary").click()
    content = browser.find_element(By.TAG_NAME, "textarea")
    right = json.loads(str(content.get_property("value"))) | {"timestamp": "2026-09-10T12:00:00Z"}
    content.clear()
    content.send_keys(json.dumps(right))
    press(browser, "Correct and replay")
    until(lambda: "events stored now" in text(browser))
    # The other one was refused for the same reason, from the same file, at the same instant.
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "details.row")) == 1)
    assert "refused again" not in text(browser)
    assert "tomorrow" in text(browser)
    assert site.read("/v1/events/trace?id=wrong")["items"][0]["status"] == "accepted"


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
    for body, status in (
        (b'{"key": "' + b"x" * 5000 + b'"}', 413),
        (b'{"key": ', 400),
        (b"5", 400),
    ):
        got = client.post("/dashboard/login", content=body, headers=page)
        assert got.status_code == status
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
