// What was refused: why, where it came from, and what to do about it.

import { get } from "../api.js";
import { card, choice, empty, h, heading, link, pathOf, put, tag } from "../dom.js";
import { minute, number } from "../format.js";

export function quarantine(view) {
  view.head(h("h1", {}, "Quarantine"), h("span", { class: "dim small" }, "refused events stop nothing; the rest was counted"));
  const asked = { reason: view.args.query.get("reason") || "" };
  const controls = h("div", { class: "bar" });
  const rows = h("div", {});
  const more = h("div", {});
  view.body.append(card("w12", heading("Newest first", controls), rows, more));
  let shown = [];
  const load = (cursor) => view.once(async () => {
    const [page, status] = await Promise.all([
      get("/v1/quarantine", { reason: asked.reason, limit: 50, cursor }),
      get("/v1/status"),
    ]);
    const reasons = Object.entries(status.quarantined || {}).sort((a, b) => b[1] - a[1]);
    put(controls, choice("Reason", [["", "any"], ...reasons.map(([name, count]) => [name, `${name} (${number(count)})`])], asked.reason, (value) => { asked.reason = value; load(); }));
    shown = cursor ? [...shown, ...page.items] : page.items;
    put(rows, shown.length ? shown.map(refused) : empty("Nothing is in quarantine", "Events that are refused come here with the reason and their content."));
    put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
  });
  load();
}

function refused(row) {
  return h(
    "details",
    { class: "row" },
    h(
      "summary",
      {},
      tag(row.reason, row.reason === "conflict" ? "warn" : "bad"),
      " ",
      h("span", {}, row.detail),
      " ",
      h("span", { class: "dim" }, `${row.origin}, ${row.origin_row} · ${minute(row.quarantined_at)}`),
    ),
    h(
      "div",
      { class: "small" },
      row.meter && h("p", {}, "refused by the meter ", h("code", {}, row.meter), " alone; the event counts for the others"),
      row.event_id && h("p", {}, link(`${pathOf("events", row.event_id)}?customer=${encodeURIComponent(row.external_customer_id)}`, `Follow the event ${row.event_id}`)),
      h("pre", {}, row.payload),
    ),
  );
}
