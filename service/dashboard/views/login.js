import { h, problem, put } from "../dom.js";

export function login(enter) {
  const note = h("div", { role: "alert" });
  const input = h("input", {
    name: "key", type: "password", autocomplete: "current-password", spellcheck: "false", required: true, placeholder: "bm_…",
  });
  const button = h("button", { class: "main", type: "submit" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await enter(input.value.trim());
    } catch (error) {
      put(note, problem(error));
      button.disabled = false;
      input.focus();
    }
  };
  setTimeout(() => input.focus());
  return h(
    "section",
    { class: "card login" },
    h("h1", {}, "Beammeter"),
    h("p", { class: "dim" }, "Sign in with an API key that may read."),
    note,
    h("form", { onsubmit: submit }, h("input", { type: "text", autocomplete: "username", value: "API key", hidden: true, readonly: true }), h("label", { class: "field" }, "API key", input), button),
    h(
      "p",
      { class: "small dim" },
      "The first start of ", h("code", {}, "beammeter serve"), " puts one into the file ",
      h("code", {}, "beammeter-keys.json.first"), "; ", h("code", {}, "beammeter keys create --right read"), " makes another.",
    ),
  );
}
