// What happens now, and what was used lately, of the whole tenant.

import { get } from "../api.js";
import { Chart, figure } from "../charts.js";
import { card, empty, h, heading, link, pathOf, renew, table } from "../dom.js";
import { ZONE, ago, number, second, short, span } from "../format.js";
import { recent } from "./recent.js";

const LIVE_SECONDS = 120;

export function overview(view) {
  view.head(h("h1", {}, "Overview"), h("span", { class: "dim small" }, `times in ${ZONE}`));
  const tiles = h("dl", { class: "tiles w12" });
  view.body.append(tiles);
  live(view, tiles);
  recent(view);
}

function tile(name, value, note = "", bad = false) {
  return h("div", { class: "tile" }, h("dt", {}, name), h("dd", { class: bad && "bad" }, value), h("dd", { class: "small dim" }, note));
}

function live(view, tiles) {
  const chart = view.own(new Chart("Events read by second", { when: (at) => second(at * 1000) }));
  const shown = figure(chart, [
    { title: "second", cell: (row) => second(row.at) },
    { title: "read", num: true, cell: (row) => number(row.read) },
    { title: "refused", num: true, cell: (row) => number(row.quarantined) },
  ]);
  const list = h("div", {});
  view.body.append(
    card("w5", heading("Events by second"), shown.element),
    card("w7", heading("Newest events", h("span", { class: "dim small" }, "stand still while you point at them")), list),
  );
  const seen = new Set();
  let status = null;
  let first = true;
  view.every(5, async () => { status = await get("/v1/status"); });
  view.every(1, async () => {
    const found = await get("/v1/live", { seconds: LIVE_SECONDS, limit: 9 });
    const now = Math.floor(new Date(found.at) / 1000);
    const counts = new Map(found.seconds.map((row) => [Math.floor(new Date(row.at) / 1000), row]));
    const xs = Array.from({ length: LIVE_SECONDS }, (_, n) => now - LIVE_SECONDS + 1 + n);
    const read = xs.map((x) => counts.get(x)?.read ?? 0);
    const lately = read.slice(-11, -1).reduce((sum, n) => sum + n, 0) / 10;
    const total = read.reduce((sum, n) => sum + n, 0);
    shown.show({ x: xs, series: [{ name: "read", values: read, shown: read.map(number) }] }, `${number(total)} events in two minutes, at most ${number(Math.max(...read))} in a second`, [...found.seconds].reverse());
    renew(tiles, ...figures(lately, status));
    const rows = found.events.map((row) => {
      const key = `${row.external_customer_id}\0${row.event_id}`;
      const fresh = !first && !seen.has(key);
      seen.add(key);
      return { ...row, fresh, key };
    });
    first = false;
    if (!held(list)) renew(list, rows.length ? newest(rows) : empty(
      "No event in the last two minutes",
      "Send one: ", h("code", {}, `curl -X POST ${location.origin}/v1/events -H 'x-api-key: …' -H 'content-type: application/json' -d '{"event_name": "…", "external_customer_id": "…"}'`),
    ));
  });
}

// What somebody points at, or has the focus in, does not move away.
export const held = (element) => element.matches(":hover, :focus-within");

export function newest(rows, withCustomer = true) {
  return table(
    [
      { title: "received", keep: true, cell: (row) => h("span", { title: row.ingested_at }, second(row.ingested_at)) },
      { title: "event", cell: (row) => link(`${pathOf("events", row.event_id)}?customer=${encodeURIComponent(row.external_customer_id)}`, row.event_name) },
      withCustomer && { title: "customer", cell: (row) => link(pathOf("customers", row.external_customer_id), row.external_customer_id) },
      { title: "id", class: "wide-only", cell: (row) => h("span", { class: "mono" }, row.event_id) },
    ].filter(Boolean),
    rows,
    { caption: "Newest events" },
  );
}

function figures(lately, status) {
  const rate = tile("events a second", short(lately.toFixed(1)), "mean of ten seconds");
  if (!status || !status.counts) return [rate];
  const { counts } = status;
  const refused = Object.values(status.quarantined).reduce((sum, n) => sum + n, 0);
  const dirty = Object.values(status.dirty).reduce((sum, n) => sum + n, 0);
  return [
    rate,
    tile("read in five minutes", number(counts.read), status.last_batch ? `last ${ago(status.last_batch)}` : "nothing came"),
    tile("not refused", status.success_rate === null ? "–" : `${(Number(status.success_rate) * 100).toFixed(2)} %`, "of those", Number(status.success_rate) < 0.95 && status.success_rate !== null),
    tile("copies", number(counts.duplicate), `${number(counts.conflict)} with other content`),
    tile("late", number(counts.late), dirty ? `${number(dirty)} marks to repair` : "nothing to repair"),
    tile("in quarantine", number(refused), refused ? "replay or correct them" : "nothing refused", false),
    tile("waiting", status.lag === null ? "–" : number(status.lag), status.usage_delay_seconds.flushes ? `in usage after ${span(status.usage_delay_seconds.p95)} (p95)` : "no usage written lately"),
  ];
}
