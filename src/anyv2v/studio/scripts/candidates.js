// Edited first frames to choose from, the best ranked first.
//
// value: { chosen, wait, candidates: [{ number, place, seed, url }] }; gives "choose" { number }.

const list = h("div", { class: "tiles", role: "radiogroup", "aria-label": "Candidates of the first frame" });
root.append(list);

function draw(value) {
  const found = value?.candidates ?? [];
  appear(found.length);
  if (list.dataset.made !== JSON.stringify(found)) {
    list.dataset.made = JSON.stringify(found);
    list.replaceChildren(...found.map(tile));
  }
  [...list.children].forEach((node, k) => {
    const chosen = found[k].number === value.chosen;
    node.setAttribute("aria-checked", chosen);
    node.tabIndex = chosen || (!value.chosen && k === 0) ? 0 : -1;
  });
}

function tile(one) {
  const words = one.place === 1 ? "best" : `place ${one.place}`;
  return h("button", {
    class: "tile", type: "button", role: "radio", "aria-label": `Candidate ${one.number}, ${words}, seed ${one.seed}`,
    title: `seed ${one.seed}`, onclick: () => trigger("choose", { number: one.number }),
  }, h("img", { src: one.url, alt: "" }), h("span", {}, one.place === 1 ? "best" : String(one.place)));
}

list.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const tiles = [...list.children], next = tiles.at((tiles.indexOf(document.activeElement) + by) % tiles.length);
  next.focus();
  next.click();
});

drawn(draw);
