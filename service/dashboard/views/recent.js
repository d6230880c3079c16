// Usage of the whole tenant in a span: each meter, and of one its course, customers and groups.

import { get } from "../api.js";
import { COLOURS, Chart, figure, ranks } from "../charts.js";
import { card, choice, empty, h, heading, pathOf, put, renew } from "../dom.js";
import { ZONE, compact, minute, number, short } from "../format.js";

const RANGES = [["24", "last 24 hours"], ["168", "last 7 days"], ["720", "last 30 days"], ["2160", "last 90 days"]];
// What is drawn apart; the last colour is for the rest.
const SPLIT = COLOURS - 1;
const ADD_UP = ["count", "sum"];

export function recent(view) {
  const { meters } = view.catalog;
  if (!meters.length) {
    view.body.append(card("w12", heading("Usage"), empty("No meters", "The catalog has none yet: add one under meters, and repair the span that it should count.")));
    return;
  }
  const chosen = { meter: meters[0].id, hours: "168", key: meters[0].group_by[0] || "", split: "" };
  const chart = view.own(new Chart("Usage", { bars: true, tall: true, when: (at) => minute(at * 1000) }));
  const shown = figure(chart, [
    { title: "from", cell: (row) => minute(row.start) },
    { title: "value", num: true, cell: (row) => number(row.value) },
    { title: "events", num: true, cell: (row) => number(row.events) },
  ]);
  const [list, top, groups, keys, title] = Array.from({ length: 5 }, () => h("div", {}));
  const controls = h("div", { class: "bar" });
  const meterOf = () => meters.find((each) => each.id === chosen.meter);
  const choose = (name, value) => {
    chosen[name] = value;
    if (name === "meter") chosen.key = meterOf().group_by[0] || "";
    if (name === "meter" && chosen.split !== "customer") chosen.split = "";
    draw();
    load();
  };
  const draw = () => {
    const meter = meterOf();
    const splits = [["", "nothing"], ["customer", "customer"], ...(chosen.key ? [["group", chosen.key]] : [])];
    put(
      controls,
      choice("Meter", meters.map((each) => [each.id, each.id]), chosen.meter, (value) => choose("meter", value)),
      choice("Span", RANGES, chosen.hours, (value) => choose("hours", value)),
      choice("Split by", splits, chosen.split, (value) => choose("split", value)),
    );
    put(title, h("h2", {}, meter.id), h("span", { class: "dim small" }, meter.description || `${meter.aggregation}${meter.property ? ` of ${meter.property}` : ""}`));
    put(keys, meter.group_by.length > 1 && choice("By", meter.group_by.map((each) => [each, each]), chosen.key, (value) => choose("key", value)));
  };
  view.body.append(
    h("div", { class: "head w12" }, h("h2", { class: "large" }, "Usage"), controls),
    card("w8", title, shown.element),
    card("w4", heading("By meter"), list),
    card("w6", heading("Top customers"), top),
    card("w6", heading("By dimension", keys), groups),
  );
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose("meter", button.dataset.meter);
  });
  let asked = 0;
  const load = () => view.once(async () => {
    const mine = ++asked;
    const { split, key, meter } = chosen;
    const hours = Number(chosen.hours);
    const step = hours <= 168 ? "hour" : "day";
    const since = { from: new Date(Date.now() - hours * 3600e3).toISOString(), zone: ZONE };
    const query = { ...since, meter };
    const [all, series, best, parts] = await Promise.all([
      get("/v1/usage/summary", since),
      get("/v1/usage/summary", { ...query, by: step }),
      get("/v1/usage/summary", { ...query, by: "customer", top: 8 }),
      key ? get("/v1/usage/summary", { ...query, group: key, top: 8 }) : { items: [] },
    ]);
    const names = split === "customer" ? best.items.map((row) => row.customer) : split === "group" ? parts.items.map((row) => row.group) : [];
    const apart = await parted(names.slice(0, SPLIT), split, key, { ...query, by: step });
    if (mine !== asked || view.ended) return;
    const filled = steps(series.items, step, hours);
    const events = series.items.reduce((sum, row) => sum + row.events, 0);
    shown.show(
      course(filled, apart, names, ADD_UP.includes(meterOf().aggregation)),
      events ? `${number(events)} events, by ${step}` : "nothing was used in this span",
      [...series.items].reverse(),
    );
    const coloured = (of) => (n) => (split === of && n < SPLIT ? n : undefined);
    renew(list, totals(meters, all.items, chosen.meter));
    renew(top, best.items.length ? ranks(best.items.map((row, n) => ({ name: row.customer, value: row.value, shown: short(row.value), href: `#${pathOf("customers", row.customer)}`, series: coloured("customer")(n) })), meter) : empty("Nobody used it", "Choose a longer span or another meter."));
    renew(groups, !key ? empty("No dimension", "Name properties under group_by of the meter to see usage apart by them.")
      : parts.items.length ? [h("p", { class: "dim small" }, key), ranks(parts.items.map((row, n) => ({ name: nameOf(row.group), value: row.value, shown: short(row.value), series: coloured("group")(n) })), meter)] : empty("Nothing to tell apart", "No usage in this span."));
  });
  draw();
  view.every(10, load);
}

const nameOf = (group) => (group === null ? "not given" : String(group));

// All meters with their values, as buttons that choose one.
function totals(meters, items, chosen) {
  const found = new Map(items.map((row) => [row.meter, row]));
  return h(
    "ul",
    { class: "meters" },
    meters.map((meter) => {
      const row = found.get(meter.id);
      return h(
        "li",
        { "data-key": meter.id },
        h(
          "button",
          { type: "button", "data-meter": meter.id, "aria-pressed": String(meter.id === chosen) },
          h("span", { class: "name" }, meter.id),
          h("span", { class: "num" }, row ? short(row.value) : "0"),
          h("span", { class: "small dim" }, meter.aggregation),
          h("span", { class: "small dim num" }, `${number(row ? row.events : 0)} events`),
        ),
      );
    }),
  );
}

// The series of some customers or group values, by their place in `names`.
async function parted(names, split, key, query) {
  if (split === "customer") {
    const found = await Promise.all(names.map((customer) => get("/v1/usage/summary", { ...query, customer })));
    return found.map((each) => each.items);
  }
  if (split !== "group") return [];
  const { items } = await get("/v1/usage/summary", { ...query, group: key, [`filter.${key}`]: names.map(String) });
  return names.map((name) => items.filter((row) => row.group === name));
}

export const whole = (filled) => ({
  x: filled.map((row) => row.at),
  series: [{ name: "", values: filled.map((row) => row.drawn), shown: filled.map((row) => short(row.value)) }],
});

// What is drawn: the whole, or some parts over each other and the rest.
function course(filled, apart, names, addsUp) {
  const x = filled.map((row) => row.at);
  if (!apart.length) return whole(filled);
  const none = addsUp ? 0 : null;
  const series = apart.map((items, n) => {
    const known = new Map(items.map((row) => [Math.floor(new Date(row.start) / 1000), row.value]));
    return {
      name: nameOf(names[n]),
      values: x.map((at) => (known.has(at) ? Number(known.get(at)) : none)),
      shown: x.map((at) => (known.has(at) ? short(known.get(at)) : undefined)),
    };
  });
  if (!addsUp || names.length <= apart.length) return { x, series, stacked: addsUp };
  const rest = filled.map((row, n) => Math.max(0, row.drawn - series.reduce((sum, each) => sum + each.values[n], 0)));
  return { x, series: [...series, { name: "others", values: rest, shown: rest.map((value) => `about ${compact(value)}`) }], stacked: true };
}

// Every step of the span, also those without usage.
export function steps(items, step, hours) {
  const size = step === "hour" ? 3600 : 86400;
  const known = items.map((row) => ({ at: Math.floor(new Date(row.start) / 1000), drawn: Number(row.value) || 0, value: row.value }));
  const found = new Map(known.map((row) => [row.at, row]));
  const origin = known.length ? known[0].at : Math.floor(Date.now() / 1000 / size) * size;
  const now = Math.floor(Date.now() / 1000);
  const first = origin - Math.floor((origin - (now - hours * 3600)) / size) * size;
  const all = [...known];
  for (let at = first; at <= now; at += size) {
    const near = found.has(at) || found.has(at - 3600) || found.has(at + 3600);
    if (!(step === "hour" ? found.has(at) : near)) all.push({ at, drawn: 0, value: "0" });
  }
  return all.sort((a, b) => a.at - b.at);
}
