"""The dashboard in headless Chromium over ten million usage rows.

python -m benchmarks.dashboard.run --folder FOLDER --times 20

The rows, of three months until now, are made once in FOLDER. The overview is opened again and
again by one browser that is signed in, its cache empty each time; browser and server share
the machine. Milliseconds since the navigation began: the browser's own paint entries, and
when the course of usage, top customers and groups were there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import yaml
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from runners.commands import open_warehouse
from tests.service.browsers import headless
from tests.service.servers import Server
from warehouse.parameters import Value

CUSTOMERS = 2_000
METERS = 5
HOURS = 1_000
"""Of each customer and meter with usage, among those of 90 days."""

FILL = """
INSERT INTO usage (tenant_id, external_customer_id, meter, external_subscription_id, group_key,
    bucket_start, bucket_end, sum, events, revision, meter_hash, updated_at)
SELECT 'default', 'customer-' || leftPad(toString(intDiv(number, {hours:UInt64})), 4, '0'),
    {meter:String}, '', concat('{"region":"', ['eu', 'us', 'asia'][1 + number % 3], '"}'),
    toStartOfHour(now('UTC'))
        - toIntervalHour(intDiv(number % {hours:UInt64} * 2160, {hours:UInt64})) AS start,
    start + toIntervalHour(1), 1 + number % 97, 1 + number % 97, 1, '', now('UTC')
FROM numbers({customers:UInt64} * {hours:UInt64})
"""
WATCH = """
new MutationObserver(() => {
    if (window.filled === undefined && document.querySelectorAll(".ranks li").length > 8
        && document.querySelector(".chart.tall canvas")) window.filled = performance.now();
}).observe(document, {childList: true, subtree: true});
"""
TIMES = """
const paint = Object.fromEntries(
    performance.getEntriesByType("paint").map((each) => [each.name, each.startTime]));
return {...paint, "usage shown": window.filled};
"""


def catalog() -> str:
    names = [f"meter-{number}" for number in range(METERS)]
    meters = [
        {"id": name, "event_name": name, "aggregation": "count", "group_by": ["region"]}
        for name in names
    ]
    customers = [
        {"id": f"customer-{number:04}", "time_zone": "Europe/Berlin", "currency": "EUR"}
        for number in range(CUSTOMERS)
    ]
    return yaml.safe_dump({"meters": meters, "customers": customers})


def fill(url: str) -> None:
    """Write the rows of each meter and merge them."""
    with open_warehouse((url, False)) as warehouse:
        for number in range(METERS):
            given: dict[str, Value] = {
                "meter": f"meter-{number}",
                "customers": CUSTOMERS,
                "hours": HOURS,
            }
            warehouse.command(FILL, given)
        warehouse.command("OPTIMIZE TABLE usage FINAL")


def main() -> None:
    """Open the overview many times and print the middle and the worst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    url = f"chdb://{folder.absolute() / 'data'}"
    if not (folder / "data").exists():
        fill(url)
    (folder / "keys.json").unlink(missing_ok=True)
    server = Server(folder, "--clickhouse", url, "--catalog", folder / "catalog.yaml")
    server.catalog.write_text(catalog(), "utf-8")
    server.start()
    browser = headless()
    try:
        browser.get(f"{server.url}/dashboard")
        browser.implicitly_wait(30)
        browser.find_element(By.NAME, "key").send_keys(server.key, Keys.ENTER)
        browser.find_element(By.CSS_SELECTOR, ".ranks li")
        browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        found: dict[str, list[float]] = {}
        for _ in range(given.times):
            browser.refresh()
            while not browser.execute_script("return window.filled"):
                time.sleep(0.05)
            for name, took in browser.execute_script(TIMES).items():
                found.setdefault(name, []).append(took)
        for name, took in found.items():
            print(f"{name}: middle {statistics.median(took):.0f} ms, most {max(took):.0f} ms")
    finally:
        browser.quit()
        server.process.kill()


if __name__ == "__main__":
    main()
