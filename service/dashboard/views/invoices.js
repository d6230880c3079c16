// Invoices, and one of them with how each line comes about.

import { get } from "../api.js";
import { card, choice, empty, h, heading, link, pathOf, put, table, tag } from "../dom.js";
import { day, group, minute, money, number } from "../format.js";

const KIND = { draft: "warn", held: "bad", finalized: "ok", preview: "" };

export function listed(items, withCustomer = true) {
  return table(
    [
      { title: "period", keep: true, cell: (row) => link(pathOf("invoices", row.invoice_id), `${day(row.period_start, "UTC")} – ${day(row.period_end, "UTC")}`) },
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
  put(controls, choice("Status", ["", "draft", "held", "finalized"].map((each) => [each, each || "any"]), "", (value) => { asked.status = value; load(); }));
  let shown = [];
  const load = (cursor) => view.once(async () => {
    const page = await get("/v1/invoices", { status: asked.status, limit: 50, cursor });
    shown = cursor ? [...shown, ...page.items] : page.items;
    put(rows, shown.length ? listed(shown) : empty("No invoice", "Write drafts for every period that has ended: ", h("code", {}, "beammeter bill --as-of TIME"), ". With ", h("code", {}, "--preview"), " nothing is written."));
    put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
  });
  load();
}

export function invoice(view) {
  view.head(h("h1", {}, "Invoice"));
  view.once(async () => {
    const found = await get(`/v1/invoices/${encodeURIComponent(view.args.id)}`);
    const zone = view.catalog.customers.find((each) => each.id === found.customer)?.time_zone || "UTC";
    view.head(
      h("div", {}, h("h1", {}, found.number || "Invoice without a number"), h("span", { class: "dim small mono" }, found.invoice_id)),
      h("span", {}, tag(found.status, KIND[found.status])),
    );
    put(
      view.body,
      card(
        "w4",
        heading("About it"),
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
      ),
      card("w8", heading("Lines"), lines(found)),
    );
  });
}

const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

// The lines of a document; under each what it is for and the exact amount before rounding.
export function lines(found) {
  if (!found.lines.length) return empty("No lines", "Nothing is charged for this period.");
  const sums = ["subtotal", "discount", "credit", "tax", "total", "prepaid", "due"]
    .filter((name) => ["subtotal", "total"].includes(name) || /[1-9]/.test(found[name] || ""))
    .map((name) => h("tr", {}, h("td", { colspan: 3, class: "num" }, name === "due" ? "left to pay" : name), h("td", { class: "num" }, money(found[name], found.currency))));
  const cut = found.prepaid && /[1-9]/.test(found.prepaid) ? sums : sums.filter((_, n) => n < sums.length - (/[1-9]/.test(found.due || "") ? 1 : 0));
  return table(
    [
      { title: "charge", cell: (row) => [row.charge, group(row.group) && h("div", { class: "dim small" }, group(row.group))] },
      {
        title: "how it comes about",
        cell: (row) => [
          row.description,
          h("div", { class: "dim small" }, [
            row.service_start && `${day(row.service_start, "UTC")} – ${day(row.service_end, "UTC")} UTC`,
            row.plan_version && `plan version ${row.plan_version}`,
            row.amount_exact !== undefined && row.amount_exact !== row.amount && `exactly ${row.amount_exact}`,
            row.meter && `meter ${row.meter}, revision ${row.revision}`,
          ].filter(Boolean).join(" · ")),
        ],
      },
      { title: "quantity", num: true, cell: (row) => number(row.quantity) },
      { title: "amount", num: true, cell: (row) => number(row.amount) },
    ],
    found.lines,
    { caption: "Lines", foot: cut },
  );
}
