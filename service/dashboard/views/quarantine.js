// What was refused: why, where it came from, and another try once the cause is gone.

import { get, post } from "../api.js";
import { card, choice, empty, fact, h, heading, link, pathOf, problem, put, tag } from "../dom.js";
import { minute, number } from "../format.js";

// Reasons that `beammeter repair` settles, or that left no content to try again.
const NOT_REPLAYED = ["conflict", "unreadable_file"];

export function quarantine(view) {
  view.head(h("h1", {}, "Quarantine"), h("span", { class: "dim small" }, "refused events stop nothing; the rest was counted"));
  const query = view.args.query;
  const asked = { reason: query.get("reason") || "", customer: query.get("customer") || "", origin: query.get("origin") || "" };
  const admin = view.session.rights.includes("admin");
  const [reasons, counts, rows, more] = Array.from({ length: 4 }, () => h("div", {}));
  const result = h("div", { role: "status", tabindex: -1 });
  const field = (name, label, hint) => h("label", { class: "field" }, label, h("input", {
    type: "search", value: asked[name], placeholder: hint, onchange: (event) => { asked[name] = event.target.value.trim(); load(); },
  }));
  const given = () => Object.fromEntries(Object.entries(asked).filter(([, value]) => value));
  view.body.append(
    h("div", { class: "bar w12" }, reasons, field("customer", "Customer", "any"), field("origin", "From", "file, partition or folder")),
    card("w12", heading("Try again"), again(view, admin, (button) => replay(button, result, given(), load)), result),
    card("w12", heading("Newest first", counts), rows, more),
  );
  let shown = [];
  const load = (cursor) => view.once(async () => {
    const [page, status] = await Promise.all([
      get("/v1/quarantine", { ...given(), limit: 25, cursor }),
      get("/v1/status"),
    ]);
    const known = Object.entries(status.quarantined || {}).sort((a, b) => b[1] - a[1]);
    const all = known.reduce((sum, [, count]) => sum + count, 0);
    put(reasons, choice("Reason", [["", `any (${number(all)})`], ...known.map(([name, count]) => [name, `${name} (${number(count)})`])], asked.reason, (value) => { asked.reason = value; load(); }));
    shown = cursor ? [...shown, ...page.items] : page.items;
    put(counts, h("span", { class: "dim small" }, page.next_cursor ? `the first ${number(shown.length)}` : number(shown.length)));
    put(rows, shown.length ? shown.map((row) => refused(row, admin && ((button, fix) => replay(button, result, fix, load)))) : empty("Nothing is in quarantine", Object.keys(given()).length ? "Nothing that matches, at least." : "Events that are refused come here with the reason and their content."));
    put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
  });
  load();
}

// The way to replay all that the filter lets through.
function again(view, admin, send) {
  const button = h("button", { class: "main", type: "button", onclick: () => send(button) }, "Replay all that match");
  return [
    h("p", { class: "dim" }, "Once the catalog, the program or the content is corrected, what was refused goes through the chain again. What is accepted then is counted, once, and leaves the quarantine; the rest stays. Conflicts are settled by ", h("code", {}, "beammeter repair"), "."),
    admin ? h("div", {}, button) : h("p", {}, "A replay needs a key with the right ", h("code", {}, "admin"), `; the one that you signed in with has: ${view.session.rights.join(", ")}.`),
  ];
}

const RESULTS = {
  accepted: "events stored now",
  measured: "values that a meter takes now",
  refused: "refused again",
  incomplete: "kept in part only",
  conflicts: "conflicts, for repair",
  resolved: "counted in usage",
  kept_open: "wait until the stream has closed their hours",
};

async function replay(button, result, body, load) {
  button.disabled = true;
  put(result, h("p", { class: "dim" }, "Replaying…"));
  try {
    const found = await post("/v1/quarantine/replay", body);
    const told = Object.entries(RESULTS).filter(([name]) => found[name]);
    put(result, told.length ? h("dl", { class: "facts" }, told.map(([name, text]) => fact(text, number(found[name])))) : h("p", {}, "Nothing was there to try again."));
    if (found.accepted || found.measured) load();
  } catch (error) {
    put(result, problem(error));
  } finally {
    button.disabled = false;
    result.focus();
  }
}

function refused(row, send) {
  const whole = !row.meter && !NOT_REPLAYED.includes(row.reason);
  const only = h("button", { type: "button", onclick: () => send(only, { ids: [row.id] }) }, "Replay this row");
  return h(
    "details",
    { class: "row" },
    h(
      "summary",
      {},
      tag(row.reason, row.reason === "conflict" ? "warn" : "bad"),
      " ",
      h("span", {}, row.meter && [h("strong", {}, row.meter), ": "], row.detail),
      h("span", { class: "dim small origin" }, `${minute(row.quarantined_at)} · ${row.origin}, ${row.origin_row}`),
    ),
    h(
      "div",
      { class: "small stack" },
      row.meter && h("p", {}, "refused by the meter ", h("code", {}, row.meter), " alone; the event counts for the others"),
      row.event_id && h("p", {}, link(`${pathOf("events", row.event_id)}?customer=${encodeURIComponent(row.external_customer_id)}`, `Follow the event ${row.event_id}`)),
      whole && send ? correction(row, send) : h("pre", { tabindex: 0, "aria-label": "Content" }, row.payload),
      row.meter && send && h("div", {}, only),
      h("p", { class: "dim" }, "Row ", h("code", {}, row.id)),
    ),
  );
}

// The content as it came, to be corrected and sent through the chain again.
function correction(row, send) {
  const text = h("textarea", { rows: Math.min(12, 2 + Math.ceil(row.payload.length / 90)), spellcheck: "false", value: row.payload });
  const button = h("button", {
    type: "button",
    onclick: () => send(button, {
      ids: [row.id],
      fix: [{ origin: row.origin, origin_row: row.origin_row, payload: text.value }],
    }),
  }, "Correct and replay");
  return [h("label", { class: "field" }, "Content", text), h("div", {}, button)];
}
