// Invoices, and one of them with how each amount comes about.

import { get } from "../api.js";
import { Chart, figure } from "../charts.js";
import { card, choice, empty, fact, h, heading, link, pathOf, put, table, tag } from "../dom.js";
import { day, group, minute, money, number, period, short } from "../format.js";

const KIND = { draft: "warn", held: "bad", finalized: "ok", preview: "" };

const zoneOf = (catalog, customer) => catalog.customers.find((each) => each.id === customer)?.time_zone || "UTC";
const some = (text) => /[1-9]/.test(text || "");

export function listed(items, catalog, withCustomer = true) {
  return table(
    [
      { title: "period", cell: (row) => link(pathOf("invoices", row.invoice_id), period(row.period_start, row.period_end, zoneOf(catalog, row.customer))) },
      withCustomer && { title: "customer", cell: (row) => link(pathOf("customers", row.customer), row.customer) },
      { title: "number", class: "wide-only", cell: (row) => row.number ?? h("span", { class: "dim" }, "none yet") },
      { title: "status", cell: (row) => [tag(row.status, KIND[row.status]), row.kind !== "invoice" && [" ", tag(row.kind)]] },
      { title: "total", num: true, cell: (row) => money(row.total, row.currency) },
    ].filter(Boolean),
    items,
    { caption: "Invoices" },
  );
}

export function invoices(view) {
  view.head(h("h1", {}, "Invoices"));
  const asked = { status: "" };
  const rows = h("div", {});
  const more = h("div", {});
  const controls = h("div", { class: "bar" });
  view.body.append(card("w12", heading("Newest periods first", controls), rows, more));
  put(controls, choice("Status", ["", "draft", "held", "finalized", "void", "withdrawn"].map((each) => [each, each || "any"]), "", (value) => { asked.status = value; load(); }));
  let shown = [];
  const load = (cursor) => view.once(async () => {
    const page = await get("/v1/invoices", { status: asked.status, limit: 50, cursor });
    shown = cursor ? [...shown, ...page.items] : page.items;
    put(rows, shown.length ? listed(shown, view.catalog) : empty("No invoice", "Write drafts for every period that has ended: ", h("code", {}, "beammeter bill --as-of TIME"), ". With ", h("code", {}, "--preview"), " nothing is written."));
    put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
  });
  load();
}

export function invoice(view) {
  view.head(h("h1", {}, "Invoice"));
  view.once(async () => {
    const path = `/v1/invoices/${encodeURIComponent(view.args.id)}`;
    const found = await get(path);
    const zone = zoneOf(view.catalog, found.customer);
    view.head(
      h("div", {}, h("h1", {}, found.number || "Invoice without a number"), h("span", { class: "dim small mono" }, found.invoice_id)),
      h("span", {}, tag(found.status, KIND[found.status])),
    );
    const box = h("div", {}, lines(found, zone));
    put(view.body, card("w4", heading("About it"), about(found, zone)), card("w8", heading("How each amount comes about"), box));
    const explained = await get(`${path}/explanation`, { language: "en" });
    if (!view.ended) put(box, lines(found, zone, explained, view));
  });
}

function about(found, zone) {
  return [
    h("span", { class: "money" }, money(found.total, found.currency)),
    h(
      "dl",
      { class: "facts" },
      fact("customer", link(pathOf("customers", found.customer), found.customer)),
      fact("subscription", found.subscription ?? "several"),
      fact("from", minute(found.period_start, zone)),
      fact("until", minute(found.period_end, zone)),
      fact("zone", zone),
      fact("kind", found.kind),
      found.issue_date && fact("issued", found.issue_date),
      found.due_date && fact("due", found.due_date),
      found.hold_reason && fact("held because of", found.hold_reason),
      fact("catalog", h("code", {}, (found.catalog_hash || "").slice(0, 12))),
    ),
  ];
}

// The lines of a document, its sums below them; where it is explained, each with its steps.
export function lines(found, zone, explained = null, view = null) {
  if (!found.lines.length) return empty("No lines", "Nothing is charged for this period.");
  const steps = new Map((explained?.lines || []).map((each) => [each.line_id, each]));
  return [
    explained && !explained.matches && h("p", { class: "note" }, "Usage or catalog have changed since: the steps are those of today. The next ", h("code", {}, "beammeter bill"), " changes a draft; a final invoice is made void before, by ", h("code", {}, "beammeter invoice void"), "."),
    h("ol", { class: "lines" }, found.lines.map((row) => line(row, zone, steps.get(row.line_id), view))),
    sums(found, explained),
  ];
}

function line(row, zone, explained, view) {
  const taken = ["discount", "credit"].filter((name) => some(row[name])).map((name) => `${name} −${number(row[name])}`);
  const small = [
    row.service_start && period(row.service_start, row.service_end, zone),
    row.plan_version && `plan version ${row.plan_version}`,
    row.meter && `meter ${row.meter}, revision ${row.revision}`,
    ...taken,
    some(row.tax) && `tax ${number(row.tax)}`,
  ].filter(Boolean);
  return h(
    "li",
    { "data-key": row.line_id },
    h("div", { class: "head" }, h("h3", {}, explained?.title || row.charge, " ", h("span", { class: "dim small" }, group(row.group))), h("span", { class: "num strong" }, number(row.amount))),
    h("ul", { class: "words" }, (explained?.words || [row.description]).map((text) => h("li", {}, text))),
    h("p", { class: "dim small" }, small.join(" · ")),
    explained?.buckets.length > 1 && buckets(row, explained.buckets, zone, view),
  );
}

// The usage behind a line, drawn once it is unfolded.
function buckets(row, found, zone, view) {
  const box = h("div", {});
  const more = h("details", {}, h("summary", {}, `Its usage in ${number(found.length)} hours`), box);
  more.addEventListener("toggle", () => {
    if (box.firstChild) return;
    const chart = view.own(new Chart(`Usage of ${row.charge}`, { bars: true, zone, when: (at) => minute(at * 1000, zone) }));
    const shown = figure(chart, [
      { title: "from", cell: (each) => minute(each.start, zone) },
      { title: "value", num: true, cell: (each) => number(each.value) },
      { title: "events", num: true, cell: (each) => number(each.events) },
    ]);
    put(box, shown.element);
    const x = found.map((each) => Math.floor(new Date(each.start) / 1000));
    const events = found.reduce((sum, each) => sum + each.events, 0);
    shown.show({ x, series: [{ name: "", values: found.map((each) => Number(each.value)), shown: found.map((each) => short(each.value)) }] }, `${number(events)} events`, found);
  });
  return more;
}

// Subtotal to total, and what each coupon, credit and tax has to do with it.
function sums(found, explained) {
  const row = (name, text, kind = null) => h("tr", { class: kind }, h("th", { scope: "row" }, name), h("td", { class: "num" }, text));
  const less = (text) => `−${money(text, found.currency)}`;
  const parts = (kind) => (explained?.credits || []).filter((each) => each.kind === kind).map((each) => row(each.grant, less(each.amount), "part"));
  const due = some(found.prepaid);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sums" }, h(
    "table",
    { class: "sums" },
    h(
      "tbody",
      {},
      row("subtotal", money(found.subtotal, found.currency)),
      some(found.discount) && [row("discount", less(found.discount)), (explained?.coupons || []).map((each) => row(`coupon ${each.coupon}`, less(each.amount), "part"))],
      some(found.credit) && [row("credit", less(found.credit)), parts("promotional")],
      some(found.tax) && [row("tax", money(found.tax, found.currency)), (explained?.taxes || []).map((each) => row(`${each.tax}, ${each.rate} % on ${number(each.net)}`, money(each.amount, found.currency), "part"))],
      row("total", money(found.total, found.currency), due ? null : "last"),
      due && [row("prepaid", less(found.prepaid)), parts("paid"), row("left to pay", money(found.due, found.currency), "last")],
    ),
  ));
}
