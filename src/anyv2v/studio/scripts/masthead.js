// The clip's name and facts, and the buttons of the whole page.
//
// value: { name, facts: [text] }; gives "fresh", for another clip.

const name = h("b", { class: "name" }), facts = h("span", { class: "facts" });
const other = h("button", { type: "button", class: "plain", onclick: () => trigger("fresh", {}) }, icon("film"), "Another clip");
const shade = h("button", { type: "button", class: "plain shade", "aria-label": "Light or dark", title: "Light or dark", onclick: () => turn() });
shade.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/></svg>';
root.append(h("h1", {}, h("b", {}, "anyv2v"), " studio"), h("p", { class: "clip" }, name, facts), other, shade);

function draw(value) {
  name.textContent = value?.name ?? "";
  facts.textContent = (value?.facts ?? []).join(" · ");
  other.hidden = !value?.name;
  document.title = value?.name ? `${value.name} · anyv2v studio` : "anyv2v studio";
}

function turn(dark = !document.body.classList.contains("dark")) {
  document.body.classList.toggle("dark", dark);
  localStorage.setItem("anyv2v-shade", dark ? "dark" : "light");
}

const kept = localStorage.getItem("anyv2v-shade");
if (kept) turn(kept === "dark");
drawn(draw);
