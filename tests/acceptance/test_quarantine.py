"""What was refused is shown, and counts exactly once when it is accepted after all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.acceptance.samples import COUNT, SUM, catalog, event
from tests.cli import Site

AT = "2026-03-04T05:06:07Z"
Facts = dict[str, int]


def shown(site: Site, *options: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = site.run("quarantine", *options).json
    return rows


def replay(site: Site, *options: object) -> Facts:
    found: Facts = site.run("replay", *options).json
    return found


def values(site: Site) -> dict[str, tuple[str, int]]:
    return {row["meter"]: (row["value"], row["events"]) for row in site.usage("period")}


def filled(module_site: Callable[..., Site], name: str) -> Site:
    site = module_site(catalog({"acme": "Europe/Berlin"}, meters=(COUNT, SUM)), name)
    rows = [
        event("good", "acme", AT, 1),
        {**event("no time", "acme", AT, 2), "timestamp": "yesterday"},
        {**event("no time either", "acme", AT, 3), "timestamp": "tomorrow"},
        {**event("text", "acme", AT, 0), "properties": {"v": "seven", "m": 7}},
    ]
    path = site.write("a.jsonl", rows)
    with path.open("a", encoding="utf-8") as file:
        file.write("{\n")
    counts = site.backfill(path)
    assert counts["quarantined"] == 3
    assert counts["meter_errors"] == 1
    return site


def test_what_was_refused_is_shown_by_reason_meter_and_origin(
    module_site: Callable[..., Site],
) -> None:
    site = filled(module_site, "shown")
    rows = shown(site)
    assert sorted((row["reason"], row["meter"], row["origin_row"]) for row in rows) == [
        ("invalid_json", "", 5),
        ("invalid_number", SUM["id"], 4),
        ("invalid_timestamp", "", 2),
        ("invalid_timestamp", "", 3),
    ]
    assert [row["event_id"] for row in shown(site, "--meter", SUM["id"])] == ["text"]
    assert len(shown(site, "--reason", "invalid_timestamp")) == 2
    assert len(shown(site, "--origin", rows[0]["origin"])) == 4
    assert len(shown(site, "--origin", site.folder)) == 4
    assert shown(site, "--origin", "elsewhere") == []
    assert shown(site, "--to", "2026-01-01T00:00:00Z") == []
    assert len(shown(site, "--limit", 1)) == 1
    counts = {(row["reason"], row["meter"]): row["rows"] for row in shown(site, "--counts")}
    assert counts[("invalid_timestamp", "")] == 2


def test_a_corrected_catalog_counts_what_a_meter_refused(
    module_site: Callable[..., Site],
) -> None:
    site = filled(module_site, "catalog")
    assert values(site)[SUM["id"]] == ("1", 1)
    unchanged = replay(site)
    assert (unchanged["accepted"], unchanged["measured"], unchanged["refused"]) == (0, 0, 4)
    site.write_catalog({**site.catalog, "meters": [COUNT, {**SUM, "property": "m"}]})
    done = replay(site, "--meter", SUM["id"])
    assert (done["measured"], done["refused"], done["kept_open"]) == (1, 0, 0)
    assert values(site)[SUM["id"]] == ("7", 1)
    assert values(site)[COUNT["id"]] == ("2", 2)
    again = replay(site, "--meter", SUM["id"])
    assert (again["measured"], again["resolved"], again["rows"]) == (0, 0, 0)
    assert len(shown(site)) == 3


def test_corrected_payloads_count_once_and_keep_their_origin(
    module_site: Callable[..., Site],
) -> None:
    site = filled(module_site, "fixed")
    rows = [row for row in shown(site) if row["reason"] == "invalid_timestamp"]
    for row in rows:
        row["payload"] = {**json.loads(row["payload"]), "timestamp": AT}
    fixed = site.folder / "fixed.json"
    fixed.write_text(json.dumps(rows[:1]), encoding="utf-8")
    done = replay(site, "--fix", fixed)
    assert (done["accepted"], done["refused"], done["resolved"]) == (1, 3, 1)
    assert values(site)[COUNT["id"]] == ("3", 3)
    assert len(shown(site)) == 3
    [[stored]] = site.query("SELECT origin_row FROM {events} FINAL WHERE event_id LIKE 'no time%'")
    assert stored == [rows[0]["origin_row"]]
    fixed.write_text(json.dumps(rows), encoding="utf-8")
    assert replay(site, "--fix", fixed)["accepted"] == 1
    assert replay(site, "--fix", fixed)["accepted"] == 0
    assert values(site)[COUNT["id"]] == ("4", 4)


def test_one_row_is_shown_and_replayed_by_its_id(module_site: Callable[..., Site]) -> None:
    site = filled(module_site, "single")
    rows = {row["event_id"]: row for row in shown(site)}
    early, late = rows["no time"], rows["no time either"]
    assert early["quarantined_at"] == late["quarantined_at"]
    assert shown(site, "--id", late["id"]) == [late]
    assert len(shown(site, "--id", late["id"], "--id", early["id"])) == 2
    assert late["id"] in site.run("quarantine", "--format", "table").stdout
    fixed = site.folder / "fixed.json"
    corrected = [
        {**row, "payload": {**json.loads(row["payload"]), "timestamp": AT}} for row in (early, late)
    ]
    fixed.write_text(json.dumps(corrected), encoding="utf-8")
    done = replay(site, "--id", late["id"], "--fix", fixed)
    assert (done["accepted"], done["refused"], done["resolved"]) == (1, 0, 1)
    assert values(site)[COUNT["id"]] == ("3", 3)
    assert {row["event_id"] for row in shown(site)} == {"", "no time", "text"}
    wrong = site.run("replay", "--id", "late")
    assert wrong.code == 2
    assert "quarantine` shows (got 'late')" in wrong.stderr


def test_rows_that_cannot_be_corrected_are_refused(module_site: Callable[..., Site]) -> None:
    site = filled(module_site, "refused")
    fixed = site.folder / "fixed.json"
    for content, message in (
        ("{", "--fix must be JSON"),
        ("{}", "--fix must be a JSON list"),
        ("[{}]", "--fix must have origin, origin_row and payload"),
        (json.dumps(shown(site, "--meter", SUM["id"])), "refused as a whole"),
    ):
        fixed.write_text(content, encoding="utf-8")
        result = site.run("replay", "--fix", fixed)
        assert result.code == 2, result
        assert message in result.stderr
