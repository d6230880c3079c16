// Customers, and one of them: what the open period comes to, what was used, what was billed.

import { get } from "../api.js";
import { Chart, figure } from "../charts.js";
import { card, choice, empty, h, heading, link, pathOf, put, renew, table } from "../dom.js";
import { day, group, minus, minute, money, number, short } from "../format.js";
import { lines, listed } from "./invoices.js";
import { held, newest } from "./overview.js";
import { steps, whole } from "./recent.js";

export function customers(view) {
  view.head(h("h1", {}, "Customers"));
  const all = view.catalog.customers;
  const plans = new Map();
  for (const each of view.catalog.subscriptions) plans.set(each.customer, [...(plans.get(each.customer) || []), each]);
  const rows = h("div", {});
  const find = h("input", { type: "search", placeholder: "Find a customer", "aria-label": "Find a customer", oninput: () => draw() });
  view.body.append(card("w12", heading("In the catalog", find), rows));
  const draw = () => {
    const text = find.value.toLowerCase();
    const found = all.filter((each) => each.id.toLowerCase().includes(text));
    put(
      rows,
      found.length ? table([
        { title: "customer", cell: (row) => link(pathOf("customers", row.id), row.id) },
        { title: "plans", cell: (row) => (plans.get(row.id) || []).map((each) => each.plan).join(", ") || h("span", { class: "dim" }, "no subscription") },
        { title: "currency", cell: (row) => row.currency },
        { title: "time zone", class: "wide-only", cell: (row) => row.time_zone },
      ], found.slice(0, 500), { caption: "Customers" }) : empty(all.length ? "No customer matches" : "No customers", all.length ? "Try a part of the id." : "The catalog has none yet: add them under customers."),
      found.length > 500 && h("p", { class: "dim small" }, `${number(found.length - 500)} more: narrow the search.`),
    );
  };
  draw();
}

export function customer(view) {
  const { id } = view.args;
  const known = view.catalog.customers.find((each) => each.id === id);
  view.head(
    h("div", {}, h("h1", {}, id), h("span", { class: "dim small" }, known ? `${known.currency} · ${known.time_zone}` : "not in the catalog: its events are kept, and not metered")),
    link(`/usage?customer=${encodeURIComponent(id)}`, "All usage"),
  );
  if (known) {
    periods(view, id, known.time_zone);
    used(view, id, known.time_zone);
  }
  const bills = h("div", {});
  const events = h("div", {});
  view.body.append(card("w6", heading("Invoices"), bills));
  if (known) credits(view, id, known.time_zone);
  view.body.append(card(known ? "w12" : "w6", heading("Newest events"), events));
  view.once(async () => {
    const page = await get("/v1/invoices", { customer: id, limit: 8 });
    put(bills, page.items.length ? listed(page.items, view.catalog, false) : empty("No invoice yet", "Drafts come with ", h("code", {}, "beammeter bill --as-of …"), " once a period has ended."));
  });
  view.every(2, async () => {
    const found = await get("/v1/live", { seconds: 900, customer: id, limit: 8 });
    if (!held(events)) renew(events, found.events.length ? newest(found.events.map((row) => ({ ...row, key: row.event_id })), false) : empty("Nothing in the last 15 minutes", "Older events are found by their id under Events."));
  });
}

function periods(view, id, zone) {
  const box = h("div", { class: "grid w12" });
  view.body.append(box);
  view.every(15, async () => {
    const found = await get(`/v1/customers/${encodeURIComponent(id)}/periods`);
    renew(box, found.items.length ? found.items.map((each) => period(each, zone)) : card("w12", heading("Open periods"), empty("No subscription is running", "Usage is metered, and nobody is billed for it.")));
  });
}

function period(found, zone) {
  const { to_date: bill, projected, currency } = found;
  const done = Math.round(Number(found.elapsed) * 100);
  const amount = (name, value, ...about) => h("dl", { class: "w4" }, h("dt", { class: "dim small" }, name), h("dd", { class: "money" }, money(value, currency)), about.filter(Boolean).map((each) => h("dd", { class: "small dim" }, each)));
  return card(
    "w12",
    heading(found.subscription, h("span", { class: "dim small" }, `${day(found.period_start, zone)} until ${day(found.period_end, zone)} · ${done} % over`)),
    h(
      "div",
      { class: "grid" },
      amount("spent to date", found.spent, ...committed(found)),
      amount("next invoice, if nothing more is used", bill.total, `on ${day(found.period_end, zone)}`),
      amount("next invoice, if it goes on like this", projected.total, "counts and sums stretched over the period"),
    ),
    h("details", {}, h("summary", {}, `What it comes to so far: ${bill.lines.length} lines`), lines(bill, zone)),
  );
}

// How far a commitment is spent, and what that means for the bill.
function committed({ commitment, spent, currency }) {
  if (!commitment) return [];
  const left = minus(commitment.amount, spent);
  const over = left.startsWith("-");
  const share = Number(commitment.amount) ? Math.floor((Number(spent) / Number(commitment.amount)) * 100) : 100;
  const span = commitment.period === "year" ? "year" : "billing period";
  return [
    h("meter", {
      min: 0, max: Number(commitment.amount) || 1, value: Math.min(Number(spent), Number(commitment.amount)),
      "aria-label": `${spent} of ${commitment.amount} ${currency} committed`,
    }),
    `${share} % of ${money(commitment.amount, currency)} that is committed by the ${span}`,
    over ? `${money(left.slice(1), currency)} beyond it${commitment.overage_factor === "1" ? "" : `, at ${commitment.overage_factor} times the price`}`
      : /[1-9]/.test(left) && `${money(left, currency)} left to use; what is not used is billed at the end`,
  ];
}

// What is left of each grant of credit.
function credits(view, id, zone) {
  const box = h("div", {});
  view.body.append(card("w6", heading("Credit"), box));
  view.once(async () => {
    const found = await get(`/v1/customers/${encodeURIComponent(id)}/credits`);
    put(box, found.items.length ? table([
      { title: "grant", cell: (row) => [row.grant, h("div", { class: "dim small" }, { promotional: "before tax, a discount", paid: "paid in advance" }[row.kind] ?? "")] },
      { title: "expires", cell: (row) => (row.expires ? day(row.expires, zone) : "never") },
      { title: "granted", num: true, class: "wide-only", cell: (row) => number(row.granted) },
      { title: "used", num: true, cell: (row) => number(row.burnt) },
      { title: "left", num: true, cell: (row) => money(row.left, row.currency) },
    ], found.items, { caption: "Credit" }) : empty("No credit", "Grants stand under credits of the catalog; only final invoices use them."));
  });
}

function used(view, id, zone) {
  const { meters } = view.catalog;
  if (!meters.length) return;
  const chosen = { meter: meters[0].id, hours: "168" };
  const chart = view.own(new Chart("Usage", { bars: true, tall: true, zone, when: (at) => minute(at * 1000, zone) }));
  const shown = figure(chart, [
    { title: "from", cell: (row) => minute(row.start, zone) },
    { title: "value", num: true, cell: (row) => number(row.value) },
    { title: "events", num: true, cell: (row) => number(row.events) },
  ]);
  const totals = h("div", {});
  const controls = h("div", { class: "bar" });
  const set = (name) => (value) => { chosen[name] = value; draw(); load(); };
  const draw = () => put(
    controls,
    choice("Meter", meters.map((each) => [each.id, each.id]), chosen.meter, set("meter")),
    choice("Span", [["48", "48 hours"], ["168", "7 days"], ["720", "30 days"]], chosen.hours, set("hours")),
  );
  view.body.append(card("w7", heading("Usage", controls), shown.element), card("w5", heading("By billing period"), totals));
  const load = () => view.once(async () => {
    const hours = Number(chosen.hours);
    const step = hours <= 168 ? "hour" : "day";
    const from = new Date(Date.now() - hours * 3600e3).toISOString();
    const found = await get("/v1/usage/summary", { customer: id, meter: chosen.meter, from, zone, by: step });
    const filled = steps(found.items, step, hours);
    const events = found.items.reduce((sum, row) => sum + row.events, 0);
    shown.show(whole(filled), events ? `${number(events)} events, by ${step}` : "nothing was used in this span", [...found.items].reverse());
    const page = await get("/v1/usage", { customer: id, granularity: "period", limit: 200, from: new Date(Date.now() - 100 * 86400e3).toISOString() });
    const rows = page.items.sort((a, b) => (a.start < b.start ? 1 : -1)).slice(0, 12);
    renew(totals, rows.length ? table([
      { title: "period from", keep: true, cell: (row) => day(row.start, zone) },
      { title: "meter", cell: (row) => [row.meter, " ", h("span", { class: "dim small" }, group(row.group))] },
      { title: "value", num: true, cell: (row) => h("span", { title: row.value }, short(row.value)) },
    ], rows, { caption: "Usage by billing period" }) : empty("Nothing was used lately", "Events show here about a second after they were sent."));
  });
  draw();
  view.every(10, load);
}
