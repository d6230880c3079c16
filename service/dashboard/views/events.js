// One event's way, from its arrival to the line that bills it.

import { get } from "../api.js";
import { card, empty, fact, h, heading, link, pathOf, put, table, tag } from "../dom.js";
import { group, minute, number } from "../format.js";

export function event(view) {
  const id = view.args.id;
  const customer = view.args.query.get("customer") || "";
  view.head(h("h1", {}, id ? "An event's way" : "Events"));
  const find = h("input", { type: "search", name: "id", value: id, required: true, placeholder: "event id", "aria-label": "Event id" });
  const go = (submitted) => {
    submitted.preventDefault();
    location.hash = `#${pathOf("events", find.value)}`;
  };
  const found = h("div", { class: "grid w12" });
  view.body.append(h("form", { class: "bar w12", onsubmit: go }, h("label", { class: "field" }, "Find an event by its id", find), h("button", { class: "main", type: "submit" }, "Follow it")), found);
  if (!id) {
    put(found, card("w12", null, empty("Give the id of an event", "You see whether it counts, which copies came, what each meter made of it, and the invoice line that bills it.")));
    return;
  }
  view.once(async () => {
    try {
      const answer = await get("/v1/events/trace", { id, customer });
      put(found, answer.items.map(way));
    } catch (error) {
      if (error.status !== 404) throw error;
      put(found, card("w12", null, empty("No event has this id", "It may not have arrived yet, or it belongs to another tenant.")));
    }
  });
}

const KIND = { accepted: "ok", conflict: "bad", quarantined: "bad", unmetered: "warn" };

function way(item) {
  const steps = [];
  if (item.event) {
    steps.push(step(["Arrived ", minute(item.event.ingested_at), " for ", link(pathOf("customers", item.customer), item.customer, { class: "within" })],
      h("dl", { class: "facts" }, fact("event", item.event.event_name), fact("happened", item.event.timestamp), item.event.source && fact("source", item.event.source),
        item.event.external_subscription_id && fact("subscription", item.event.external_subscription_id)),
      h("pre", { tabindex: 0, "aria-label": "Properties" }, JSON.stringify(item.event.properties, null, 2))));
  }
  if (item.copies.length > 1) {
    steps.push(step(`${item.copies.length} copies with different content; the one that arrived first counts`, table([
      { title: "arrived", cell: (row) => minute(row.ingested_at) },
      { title: "from", cell: (row) => `${row.origin}, ${row.origin_row}` },
      { title: "what became of it", cell: (row) => (row.counts ? tag("counts", "ok") : tag(row.conflict ? "conflict" : "duplicate", row.conflict ? "bad" : "")) },
    ], item.copies, { caption: "Copies" })));
  }
  for (const row of item.quarantined) {
    steps.push(step([tag(row.reason, "bad"), " ", row.detail], h("span", { class: "dim small" }, `${row.origin}, ${row.origin_row}${row.meter ? ` · meter ${row.meter}` : ""}`), true));
  }
  for (const mark of item.marks) {
    steps.push(step([`Marked ${mark.reason} `, mark.cleared ? tag("repaired", "ok") : tag("to be repaired", "warn")]));
  }
  if (item.event && !item.meters.length) {
    steps.push(step(item.known_customer ? "No meter counts events of this name" : "Its customer is not in the catalog", h("span", { class: "dim small" }, `It is kept: a ${item.known_customer ? "meter" : "customer"} that is added later brings it in, after a repair.`)));
  }
  for (const meter of item.meters) steps.push(metered(meter));
  return card("w12", heading(item.customer, tag(item.status, KIND[item.status])), h("ol", { class: "steps" }, steps));
}

function metered(meter) {
  if (meter.result === "filtered") return step([h("strong", {}, meter.meter), " looks away: its filters do not match"]);
  if (meter.result === "refused") return step([h("strong", {}, meter.meter), " refused it: ", meter.detail], null, true);
  return step(
    [h("strong", {}, meter.meter), meter.value === null ? " counts it" : [" counts ", number(meter.value)], group(meter.group) && ` under ${group(meter.group)}`],
    h(
      "dl",
      { class: "facts" },
      fact("bucket", `${meter.bucket.start} to ${meter.bucket.end}`),
      fact("subscription", meter.subscription ?? "none"),
      fact("period", `${meter.period.start} to ${meter.period.end}`),
      fact("usage row", meter.usage ? [meter.usage.value === null ? "" : `${number(meter.usage.value)} from `, `${number(meter.usage.events)} events, revision ${meter.usage.revision}`] : "not written yet"),
      meter.lines.map((line) => fact("billed by", [link(pathOf("invoices", line.invoice_id), line.charge), ` · ${line.status} · quantity ${number(line.quantity)}`])),
    ),
  );
}

const step = (title, body = null, more = null) => h("li", { class: more === true ? "bad" : null }, h("span", {}, title), body, more === true ? null : more);
