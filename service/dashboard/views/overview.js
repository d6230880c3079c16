// What happens now, and what was used lately, of the whole tenant.

import { get } from "../api.js";
import { Chart, figure, ranks } from "../charts.js";
import { card, choice, empty, h, heading, link, pathOf, put, table, tag } from "../dom.js";
import { ZONE, ago, day, group, minute, number, second, short, span } from "../format.js";

const RANGES = [["24", "last 24 hours"], ["168", "last 7 days"], ["720", "last 30 days"], ["2160", "last 90 days"]];
const LIVE_SECONDS = 120;

export function overview(view) {
  view.head(h("h1", {}, "Overview"), h("span", { class: "dim small" }, `times in ${ZONE}`));
  const tiles = h("dl", { class: "tiles w12" });
  view.body.append(tiles);
  live(view, tiles);
  recent(view);
}

function tile(name, value, note = "", bad = false) {
  return h("div", { class: "tile" }, h("dt", {}, name), h("dd", { class: bad && "bad" }, value), h("span", { class: "small dim" }, note));
}

function live(view, tiles) {
  const chart = view.own(new Chart("Events read by second"));
  const shown = figure(chart, [
    { title: "second", cell: (row) => second(row.at) },
    { title: "read", num: true, cell: (row) => number(row.read) },
    { title: "refused", num: true, cell: (row) => number(row.quarantined) },
  ]);
  const list = h("div", {});
  view.body.append(
    card("w5", heading("Events by second"), shown.element),
    card("w7", heading("Newest events"), list),
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
    shown.show([xs, read], `${number(total)} events in two minutes, at most ${number(Math.max(...read))} in a second`, [...found.seconds].reverse());
    put(tiles, ...figures(lately, status));
    const rows = found.events.map((row) => {
      const key = `${row.external_customer_id}\0${row.event_id}`;
      const fresh = !first && !seen.has(key);
      seen.add(key);
      return { ...row, fresh };
    });
    first = false;
    put(list, rows.length ? newest(rows) : empty(
      "No event in the last two minutes",
      "Send one: ", h("code", {}, `curl -X POST ${location.origin}/v1/events -H 'x-api-key: …' -H 'content-type: application/json' -d '{"event_name": "…", "external_customer_id": "…"}'`),
    ));
  });
}

export function newest(rows) {
  return table(
    [
      { title: "received", keep: true, cell: (row) => h("span", { title: row.ingested_at }, second(row.ingested_at)) },
      { title: "event", cell: (row) => link(`${pathOf("events", row.event_id)}?customer=${encodeURIComponent(row.external_customer_id)}`, row.event_name) },
      { title: "customer", cell: (row) => link(pathOf("customers", row.external_customer_id), row.external_customer_id) },
      { title: "id", class: "mono wide-only", cell: (row) => row.event_id },
    ],
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
    tile("waiting", status.lag === null ? "–" : number(status.lag), status.delay_seconds.events ? `stored after ${span(status.delay_seconds.p95)} (p95)` : "not read yet"),
  ];
}

function recent(view) {
  const { meters } = view.catalog;
  if (!meters.length) {
    view.body.append(card("w12", heading("Usage"), empty("No meters", "The catalog has none yet: add one under meters, and repair the span that it should count.")));
    return;
  }
  const chosen = { meter: meters[0].id, hours: "168", key: "" };
  const chart = view.own(new Chart("Usage", { bars: true }));
  const shown = figure(chart, [
    { title: "from", cell: (row) => minute(row.start) },
    { title: "value", num: true, cell: (row) => number(row.value) },
    { title: "events", num: true, cell: (row) => number(row.events) },
  ]);
  const top = h("div", {});
  const groups = h("div", {});
  const beside = h("div", {});
  const keys = h("div", {});
  const controls = h("div", { class: "bar" });
  const meterOf = () => meters.find((each) => each.id === chosen.meter);
  const draw = () => {
    const meter = meterOf();
    put(
      controls,
      choice("Meter", meters.map((each) => [each.id, each.id]), chosen.meter, (value) => { chosen.meter = value; chosen.key = ""; draw(); load(); }),
      choice("Span", RANGES, chosen.hours, (value) => { chosen.hours = value; load(); }),
    );
    put(beside, `${meter.aggregation}${meter.property ? ` of ${meter.property}` : ""}`);
    if (meter.group_by.length) {
      chosen.key = chosen.key || meter.group_by[0];
      put(keys, choice("By", meter.group_by.map((each) => [each, each]), chosen.key, (value) => { chosen.key = value; load(); }));
    } else put(keys);
  };
  view.body.append(
    h("div", { class: "head w12" }, h("div", {}, h("h2", {}, "Usage"), h("span", { class: "dim small" }, beside)), controls),
    card("w6", heading("Over time"), shown.element),
    card("w3", heading("Top customers"), top),
    card("w3", heading("By dimension", keys), groups),
  );
  const load = () => view.once(async () => {
    const hours = Number(chosen.hours);
    const step = hours <= 168 ? "hour" : "day";
    const from = new Date(Date.now() - hours * 3600e3).toISOString();
    const query = { meter: chosen.meter, from, zone: ZONE };
    const [series, best, parts] = await Promise.all([
      get("/v1/usage/summary", { ...query, by: step }),
      get("/v1/usage/summary", { ...query, by: "customer", top: 8 }),
      chosen.key ? get("/v1/usage/summary", { ...query, group: chosen.key, top: 8 }) : { items: [] },
    ]);
    const filled = steps(series.items, step, hours);
    const events = series.items.reduce((sum, row) => sum + row.events, 0);
    shown.show(
      [filled.map((row) => row.at), filled.map((row) => row.drawn)],
      events ? `${number(events)} events, by ${step}` : "nothing was used in this span",
      [...series.items].reverse(),
    );
    put(top, best.items.length ? ranks(best.items.map((row) => ({ name: row.customer, value: row.value, shown: short(row.value), href: `#${pathOf("customers", row.customer)}` })), chosen.meter) : empty("Nobody used it", "Choose a longer span or another meter."));
    put(groups, !chosen.key ? empty("No dimension", "Name properties under group_by of the meter to see usage apart by them.")
      : parts.items.length ? ranks(parts.items.map((row) => ({ name: row.group === null ? "not given" : String(row.group), value: row.value, shown: short(row.value) })), chosen.meter) : empty("Nothing to tell apart", "No usage in this span."));
  });
  draw();
  view.every(10, load);
}

// Every step of the span, also those without usage.
export function steps(items, step, hours) {
  const size = step === "hour" ? 3600 : 86400;
  const known = items.map((row) => ({ at: Math.floor(new Date(row.start) / 1000), drawn: Number(row.value) || 0 }));
  const found = new Map(known.map((row) => [row.at, row]));
  const origin = known.length ? known[0].at : Math.floor(Date.now() / 1000 / size) * size;
  const now = Math.floor(Date.now() / 1000);
  const first = origin - Math.floor((origin - (now - hours * 3600)) / size) * size;
  const all = [...known];
  for (let at = first; at <= now; at += size) {
    const near = found.has(at) || found.has(at - 3600) || found.has(at + 3600);
    if (!(step === "hour" ? found.has(at) : near)) all.push({ at, drawn: 0 });
  }
  return all.sort((a, b) => a.at - b.at);
}

export { day, group, tag };
